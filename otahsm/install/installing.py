"""Installs files into the root folder of an image, or over SSH on many devices concurrently."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from otahsm.errors import ConfigError, DeviceRefusedError, DeviceUnreachableError, OtahsmError
from otahsm.install.aktualizr import IMPORT, holds_pin
from otahsm.install.output import read_both, shown
from otahsm.install.scripts import EXPLAINED, IDENTITY, install_script, look_script
from otahsm.line.device_files import DeviceFiles, identity_in
from otahsm.system.owners import check_owner

_SOTA_TOML: Final = "sota.toml"
_SECRET, _OPEN = "-rw-------", "-rw-r--r--"
_LOCAL_SECONDS: Final = 60.0


class Shell(Protocol):
    """Runs scripts on a device, or for the root folder of an image."""

    directory: str

    async def run(self, script: str) -> tuple[int, str]:
        """Run a script with `sh`; return its exit status and its output. Raises OtahsmError."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A device that has its files; `before`: it already had them."""

    device_id: str
    where: str
    before: bool


@dataclass(frozen=True, slots=True)
class NotInstalled:
    """A device that could not be installed, and why."""

    device_id: str
    where: str
    error: OtahsmError


@dataclass(frozen=True, slots=True)
class _Seen:
    """The files on a device: digest, mode and owner by name; and the device id in its certificate."""

    files: dict[str, tuple[str, str, str]]
    identity: str | None

    @classmethod
    def read(cls, output: str) -> _Seen:
        lines, _, certificate = output.partition("certificate\n")
        files = {}
        for line in lines.splitlines():
            _, name, digest, mode, owner = line.split()
            files[name] = (digest, mode[:10], owner)
        return cls(files, identity_in(certificate.encode()) if certificate else None)

    def has(self, contents: dict[str, bytes], secret: Collection[str]) -> bool:
        """Return whether the device has exactly these files, and only the owner can read the secret ones."""
        return self.files.keys() & IDENTITY == contents.keys() & IDENTITY and all(
            name in self.files
            and self.files[name][0] == hashlib.sha256(content).hexdigest()
            and self.files[name][1] == (_SECRET if name in secret else _OPEN)
            for name, content in contents.items()
        )


async def install(shell: Shell, files: DeviceFiles, sota_toml: str = "", *, replace: bool = False) -> bool:
    """Install a device's files, and verify them.

    Args:
        shell: runs scripts on the device.
        files: the files.
        sota_toml: aktualizr's configuration; empty to write none.
        replace: whether to replace the files of another device, or another sota.toml.

    Returns:
        Whether everything was already there.

    Raises:
        OtahsmError: the device can't be reached, has another identity, or can't be written.
    """
    expected = dict(files.contents)
    if sota_toml:
        expected[_SOTA_TOML] = sota_toml.encode()
    secret = {"pkey.pem", _SOTA_TOML} if holds_pin(sota_toml) else {"pkey.pem"}
    seen = await _run(shell, look_script(shell.directory))
    if seen.has(expected, secret):
        return True
    if seen.identity not in (None, files.device_id) and not replace:
        raise DeviceRefusedError(
            f"it is already the device {shown(seen.identity or '')}",
            hint="Check the host. If it should become another device, add --replace.",
        )
    if sota_toml and not replace:
        there = seen.files.get(_SOTA_TOML)
        if there is not None and there[0] != hashlib.sha256(sota_toml.encode()).hexdigest():
            raise DeviceRefusedError(
                f"another {_SOTA_TOML} already exists beside {shell.directory}",
                hint="Omit --sota-toml, or add --replace.",
            )
    seen = await _run(shell, install_script(shell.directory, files.contents, sota_toml))
    if not seen.has(expected, secret):
        raise DeviceRefusedError(
            "the files on the device differ from those that were sent",
            hint="Check whether its disk is full or failing, and run the command again.",
        )
    return False


async def install_all(
    jobs: Iterable[tuple[str, str, Callable[[], Awaitable[bool]]]], parallel: int
) -> AsyncIterator[Installed | NotInstalled]:
    """Install devices concurrently; yield one report for each, as they finish.

    Args:
        jobs: device id, location, and the function that installs it and returns whether it was already done.
        parallel: the most devices at a time.
    """
    room = asyncio.Semaphore(parallel)

    async def one(
        device_id: str, where: str, work: Callable[[], Awaitable[bool]]
    ) -> Installed | NotInstalled:
        async with room:
            try:
                return Installed(device_id, where, await work())
            except OtahsmError as error:
                return NotInstalled(device_id, where, error)

    tasks = [asyncio.create_task(one(*job)) for job in jobs]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()


class ImageRoot:
    """The root folder of an image on this machine.

    Args:
        root: the folder.
        directory: the absolute path of `import` in it.

    Raises:
        ConfigError: it is not a folder, the path contains a symbolic link, or this is root and another user
            can change it.
    """

    def __init__(self, root: Path, directory: str = IMPORT) -> None:
        if not root.is_dir():
            raise ConfigError(f"{root} is not a folder", hint="Give the root folder of an image with --root.")
        path = root
        *above, last = PurePosixPath(directory).parts[1:]
        for part in above:
            path /= part
            if path.is_symlink():
                raise ConfigError(
                    f"{path} is a symbolic link, which may point outside of the image",
                    hint="Replace it with a folder, or install over SSH when the device runs.",
                )
        check_owner(path / last)
        self.directory = str(path / last)

    async def run(self, script: str) -> tuple[int, str]:
        """Run a script locally.

        Raises:
            DeviceUnreachableError: it took too long.
            DeviceRefusedError: it printed too much.
        """
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-s",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - all are pipes
        try:
            async with asyncio.timeout(_LOCAL_SECONDS):
                process.stdin.write(script.encode())
                process.stdin.close()
                output, errors = await read_both(process.stdout, process.stderr)
                status = await process.wait()
        except TimeoutError:
            raise DeviceUnreachableError(f"{self.directory} took more than {_LOCAL_SECONDS:g} s") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.communicate()  # what is left in the pipes
        return status, (errors if status else output).decode(errors="replace")


async def _run(shell: Shell, script: str) -> _Seen:
    status, output = await shell.run(script)
    if status:
        last = output.strip().splitlines()[-1:] or [f"it exited with status {status}"]
        raise DeviceRefusedError(f"can't write {shell.directory}: {EXPLAINED.get(status, shown(last[0]))}")
    try:
        return _Seen.read(output)
    except ValueError:
        raise DeviceRefusedError("the device's shell prints extra output") from None
