"""Connects to devices over SSH. Host keys are always verified before anything is sent."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import asyncssh

from otahsm.errors import ConfigError, DeviceRefusedError, DeviceUnreachableError, FolderError
from otahsm.install.aktualizr import IMPORT
from otahsm.install.output import MAX_OUTPUT_BYTES, check_length, read_both, shown
from otahsm.system.durable import open_beside, replace_file
from otahsm.system.owners import check_owner

_PORT: Final = 22
_HOST: Final = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[0-9a-fA-F:.%a-z]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Host:
    """The address of a device: `[user@]host[:port]`, IPv6 addresses in brackets. None for the default."""

    name: str
    port: int | None = None
    user: str | None = None

    @classmethod
    def parse(cls, text: str) -> Host:
        """Parse an address. Raises ConfigError: it is invalid."""
        match = _HOST.fullmatch(text)
        name = match and (match["six"] or match["host"])
        if (
            not match
            or not name
            or name.startswith("-")
            or int(match["port"] or 1) not in range(1, _MAX_PORT + 1)
        ):
            raise ConfigError(
                f"invalid host {text[:64]!r}",
                hint="Write [user@]host[:port], and IPv6 addresses in brackets.",
            )
        return cls(name, int(match["port"]) if match["port"] else None, match["user"])

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}" if self.port else name


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in to devices.

    Attributes:
        user, port: the defaults for hosts; None for those of ~/.ssh/config, or the local user name and 22.
        identity: a private key file; None for those of the agent and in ~/.ssh.
        password: the user's password; None to use keys.
        known_hosts: the file of host keys.
        accept_new: whether to add the key of a host that is not in it.
        sudo: whether to become root with sudo.
        sudo_password: the password for sudo; None if it needs none.
        seconds: the time limit for a device.
        directory: the absolute path of `import` on the devices.
    """

    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    password: str | None = None
    known_hosts: Path = Path("~/.ssh/known_hosts")
    accept_new: bool = False
    sudo: bool = False
    sudo_password: str | None = None
    seconds: float = 60.0
    directory: str = IMPORT


class SshShell:
    """The shell of a device, and the absolute path of `import` there."""

    def __init__(self, connection: asyncssh.SSHClientConnection, login: Login) -> None:
        self.directory = login.directory
        self._connection = connection
        self._login = login

    async def run(self, script: str) -> tuple[int, str]:
        """Run a script with `sh` on the device.

        Raises:
            DeviceRefusedError: it prints too much, or sudo refuses the password.
        """
        if self._login.sudo and self._login.sudo_password is not None:
            return await self._run_with_password(script, self._login.sudo_password)
        process = await self._start("sudo -n -- sh -s" if self._login.sudo else "sh -s")
        return await _finish(process, script)

    async def _run_with_password(self, script: str, password: str) -> tuple[int, str]:
        """Run a script as root. The password is sent when sudo asks for it, and to nobody else.

        sudo may not ask: then a password that was sent before would be the first line of the script.
        """
        mark = secrets.token_hex(8)
        ready, prompt = f"otahsm-ready-{mark}\n".encode(), f"otahsm-sudo-{mark}:".encode()
        process = await self._start(
            f"sudo -S -p {shlex.quote(prompt.decode())} -- sh -c 'echo {ready.decode().strip()}; exec sh -s'"
        )
        asked = asyncio.create_task(_read_until(process.stderr, prompt))
        started = asyncio.create_task(_read_until(process.stdout, ready))
        try:
            await asyncio.wait({asked, started}, return_when=asyncio.FIRST_COMPLETED)
            if not started.done() and (await asked).found:
                process.stdin.write(f"{password}\n".encode())
                asked = asyncio.create_task(_read_until(process.stderr, prompt))
                await asyncio.wait({asked, started}, return_when=asyncio.FIRST_COMPLETED)
                if not started.done() and (await asked).found:
                    raise DeviceRefusedError(
                        "sudo refuses the password", hint="Check --sudo-password-file and the user's rights."
                    )
            before = await started
            if not before.found:  # sudo has failed, and said why
                return await _finish(process, "", errors=(await asked).rest)
        finally:
            for task in (asked, started):
                task.cancel()
            await asyncio.gather(asked, started, return_exceptions=True)
        return await _finish(process, script, output=before.rest)

    async def _start(self, command: str) -> asyncssh.SSHClientProcess[bytes]:
        return await self._connection.create_process(command, encoding=None)


class _Read(NamedTuple):
    """What was read of a stream: whether the mark was in it, and what came after the mark."""

    found: bool
    rest: bytes


async def _read_until(source: asyncssh.SSHReader[bytes], mark: bytes) -> _Read:
    """Read a stream up to a mark, or to its end. Raises DeviceRefusedError: it is too long."""
    seen = b""
    while mark not in seen:
        part = await source.read(MAX_OUTPUT_BYTES)
        seen += part
        check_length(len(seen))
        if not part:
            return _Read(found=False, rest=seen)
    return _Read(found=True, rest=seen.partition(mark)[2])


async def _finish(
    process: asyncssh.SSHClientProcess[bytes], script: str, *, output: bytes = b"", errors: bytes = b""
) -> tuple[int, str]:
    """Give a shell its script; return its exit status, and its output, or if it failed, its errors."""
    with contextlib.suppress(BrokenPipeError):  # it has ended, and its status says why
        process.stdin.write(script.encode())
        process.stdin.write_eof()
    output, errors = await read_both(process.stdout, process.stderr, before=(output, errors))
    await process.wait_closed()
    status = 255 if process.exit_status is None else process.exit_status
    return status, (errors if status else output).decode(errors="replace")


def over_ssh(login: Login) -> Callable[[str], AbstractAsyncContextManager[SshShell]]:
    """Return a function that connects to `[user@]host[:port]` like `connected`, or raises ConfigError."""
    login = replace(login, known_hosts=login.known_hosts.expanduser())
    return lambda host: connected(Host.parse(host), login)


@contextlib.asynccontextmanager
async def connected(host: Host, login: Login) -> AsyncIterator[SshShell]:
    """Connect to a device; connecting and the block together may take `login.seconds`.

    Raises:
        DeviceUnreachableError: it can't be reached, or is too slow.
        DeviceRefusedError: its host key is unknown or changed, or it accepts neither key nor password.
    """
    try:
        async with asyncio.timeout(login.seconds):
            async with await _connect(host, login) as connection:
                yield SshShell(connection, login)
    except TimeoutError:
        raise DeviceUnreachableError(f"{host} took more than {login.seconds:g} s") from None
    except asyncssh.PermissionDenied:
        raise DeviceRefusedError(
            f"{host} accepts neither our key nor a password for this user",
            hint="Check the user, --identity or --password-file, and the device's authorized_keys.",
        ) from None
    except (asyncssh.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        reason = shown(reason or type(error).__name__)
        raise DeviceUnreachableError(f"can't reach {host}: {reason}") from None


async def _connect(host: Host, login: Login) -> asyncssh.SSHClientConnection:
    try:
        return await _open(host, login)
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed):
        await _learn_host_key(host, login)
        return await _open(host, login)


async def _open(host: Host, login: Login) -> asyncssh.SSHClientConnection:
    options: dict[str, object] = {}
    if (port := host.port or login.port) is not None:
        options["port"] = port
    if (user := host.user or login.user) is not None:
        options["username"] = user
    if login.identity is not None:
        options |= {"client_keys": [str(login.identity)], "agent_path": None}
    if login.password is not None:
        options |= {"password": login.password, "client_keys": None, "agent_path": None}
    known = login.known_hosts.read_bytes() if login.known_hosts.exists() else b""
    return await asyncssh.connect(
        host.name,
        known_hosts=asyncssh.import_known_hosts(known.decode(errors="replace")),
        connect_timeout=login.seconds,
        login_timeout=login.seconds,
        **options,
    )


async def _learn_host_key(host: Host, login: Login) -> None:
    """Check why a host key is not accepted; add a new one if `login.accept_new`.

    Raises:
        DeviceRefusedError: the key has changed, or is new and must not be added.
    """
    port = host.port or login.port or _PORT
    key = await asyncssh.get_server_host_key(host.name, port)
    if key is None:
        raise DeviceRefusedError(f"{host} has no host key of a supported type")
    name = host.name if port == _PORT else f"[{host.name}]:{port}"
    with _locked(login.known_hosts) as text:
        known, *_ = asyncssh.import_known_hosts(text).match(host.name, host.name, port)
        fingerprint = key.get_fingerprint()
        if any(key == one for one in known):
            return  # another task was faster
        if known:
            raise DeviceRefusedError(
                f"the host key of {host} has changed: {fingerprint}",
                hint=f"If the device was reinstalled: ssh-keygen -R '{name}' -f {login.known_hosts}. If not,"
                " this may be an attack.",
            )
        if not login.accept_new:
            raise DeviceRefusedError(
                f"the host key of {host} is unknown: {fingerprint}",
                hint="Compare it with the device's; then run the command again with --accept-new.",
            )
        line = f"{name} {key.export_public_key('openssh').decode().strip()}\n"
        _append(login.known_hosts, text, line)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[str]:
    """Lock the file of host keys, and yield its content.

    Raises:
        ConfigError: this is root, and the file is another user's.
        FolderError: it can't be used.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(path)
        lock = open_beside(path.with_name(f".{path.name}.otahsm-lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path.read_text(errors="replace") if path.exists() else ""
        finally:
            os.close(lock)
    except OSError as error:
        raise FolderError(f"can't use {path}: {error.strerror}") from None


def _append(path: Path, text: str, line: str) -> None:
    """Append a line to the file, atomically. Raises OSError."""
    before = text if not text or text.endswith("\n") else f"{text}\n"
    replace_file(path.resolve(), (before + line).encode())
