"""Installs devices: into the root folder of an image, or over SSH onto many devices at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from otahsm.errors import ConfigError, DeviceRefusedError, DeviceUnreachableError, OtahsmError
from otahsm.install.aktualizr import IMPORT
from otahsm.install.scripts import EXPLAINED, IDENTITY, install_script, look_script
from otahsm.line.device_files import DeviceFiles, identity_in

_SOTA_TOML: Final = "sota.toml"
_MODES: Final = {"pkey.pem": "-rw-------"}
_LOCAL_SECONDS: Final = 60.0


class Shell(Protocol):
    """Runs scripts where a device's files are to be."""

    directory: str

    async def run(self, script: str) -> tuple[int, str]:
        """Feed a script to `sh`; return its exit status and what it printed. Raises OtahsmError."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A device that has its files; `before`: it had them already."""

    device_id: str
    where: str
    before: bool


@dataclass(frozen=True, slots=True)
class NotInstalled:
    """A device that has not, and why."""

    device_id: str
    where: str
    error: OtahsmError


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is on a device: digest, mode and owner by name; and whose certificate."""

    files: dict[str, tuple[str, str, str]]
    identity: str | None

    @classmethod
    def read(cls, printed: str) -> _Seen:
        lines, _, certificate = printed.partition("certificate\n")
        files = {}
        for line in lines.splitlines():
            _, name, digest, mode, owner = line.split()
            files[name] = (digest, mode[:10], owner)
        return cls(files, identity_in(certificate.encode()) if certificate else None)

    def has(self, contents: dict[str, bytes]) -> bool:
        """Return whether the files are those, and nobody else may read the key."""
        return self.files.keys() & IDENTITY == contents.keys() & IDENTITY and all(
            name in self.files
            and self.files[name][0] == hashlib.sha256(content).hexdigest()
            and self.files[name][1] == _MODES.get(name, "-rw-r--r--")
            for name, content in contents.items()
        )


async def install(shell: Shell, files: DeviceFiles, sota_toml: str = "", *, replace: bool = False) -> bool:
    """Put a device's files in place, and check that they are.

    Args:
        shell: reaches the device.
        files: what it gets.
        sota_toml: aktualizr's configuration, if it is to be written too.
        replace: also where there are the files of another device, or another sota.toml.

    Returns:
        Whether all of it was there before.

    Raises:
        OtahsmError: the device can't be reached, has another identity, or can't be written.
    """
    wanted = dict(files.contents)
    if sota_toml:
        wanted[_SOTA_TOML] = sota_toml.encode()
    seen = await _run(shell, look_script(shell.directory))
    if seen.has(wanted):
        return True
    if seen.identity not in (None, files.device_id) and not replace:
        raise DeviceRefusedError(
            f"it is the device {seen.identity} already",
            hint="Is this the right host? If it is to become another device: --replace.",
        )
    if sota_toml and not replace:
        there = seen.files.get(_SOTA_TOML)
        if there is not None and there[0] != hashlib.sha256(sota_toml.encode()).hexdigest():
            raise DeviceRefusedError(
                f"{_SOTA_TOML} is there beside {shell.directory}, and another",
                hint="Leave out --sota-toml, or write over it: --replace.",
            )
    seen = await _run(shell, install_script(shell.directory, files.contents, sota_toml))
    if not seen.has(wanted):
        raise DeviceRefusedError(
            "what is on the device now is not what was sent",
            hint="Is its disk full or failing? Run it again.",
        )
    return False


async def install_all(
    jobs: Iterable[tuple[str, str, Callable[[], Awaitable[bool]]]], parallel: int
) -> AsyncIterator[Installed | NotInstalled]:
    """Install devices at the same time; yield one report for each, as they come.

    Args:
        jobs: device id, where it is, and what installs it and tells whether all was there before.
        parallel: at most so many at once.
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
        ConfigError: it is none, or a symbolic link in it leads elsewhere.
    """

    def __init__(self, root: Path, directory: str = IMPORT) -> None:
        if not root.is_dir():
            raise ConfigError(f"{root} is no folder", hint="Name the root folder of an image with --root.")
        path = root
        *above, last = PurePosixPath(directory).parts[1:]
        for part in above:
            path /= part
            if path.is_symlink():
                raise ConfigError(
                    f"{path} is a symbolic link, which may lead out of the image",
                    hint="Make it a folder, or install over SSH when the device runs.",
                )
        self.directory = str(path / last)

    async def run(self, script: str) -> tuple[int, str]:
        """Run a script here. Raises DeviceUnreachableError: it takes too long."""
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-s",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_LOCAL_SECONDS):
                printed, said = await process.communicate(script.encode())
        except TimeoutError:
            process.kill()
            raise DeviceUnreachableError(f"{self.directory} took more than {_LOCAL_SECONDS:g} s") from None
        status = process.returncode or 0
        return status, (printed if not status else said).decode(errors="replace")


async def _run(shell: Shell, script: str) -> _Seen:
    status, printed = await shell.run(script)
    if status:
        last = printed.strip().splitlines()[-1:] or [f"it ended with {status}"]
        raise DeviceRefusedError(f"can't write {shell.directory}: {EXPLAINED.get(status, last[0])}")
    try:
        return _Seen.read(printed)
    except ValueError:
        raise DeviceRefusedError("the device's shell prints something of its own") from None
