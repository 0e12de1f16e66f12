"""Reaches devices over SSH. Host keys are always checked; who answers instead of a device gets nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import asyncssh

from otahsm.errors import ConfigError, DeviceRefusedError, DeviceUnreachableError, FolderError
from otahsm.install.aktualizr import IMPORT
from otahsm.system.durable import replace_file

_PORT: Final = 22
_HOST: Final = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[0-9a-fA-F:.%a-z]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Host:
    """Where a device is: `[user@]host[:port]`; IPv6 addresses in brackets. None: the default."""

    name: str
    port: int | None = None
    user: str | None = None

    @classmethod
    def parse(cls, text: str) -> Host:
        """Read it. Raises ConfigError: it is none."""
        match = _HOST.fullmatch(text)
        name = match and (match["six"] or match["host"])
        if (
            not match
            or not name
            or name.startswith("-")
            or int(match["port"] or 1) not in range(1, _MAX_PORT + 1)
        ):
            raise ConfigError(
                f"{text[:64]!r} is no host", hint="Write [user@]host[:port], and IPv6 addresses in brackets."
            )
        return cls(name, int(match["port"]) if match["port"] else None, match["user"])

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name}:{self.port}" if self.port else name


@dataclass(frozen=True, slots=True)
class Login:
    """How devices are logged into.

    Attributes:
        user, port: where a host says none; None: as in ~/.ssh/config, or the own name, and 22.
        identity: a private key file; None for the agent's, and those in ~/.ssh.
        password: of the user, if keys are not to be tried.
        known_hosts: the file of host keys.
        accept_new: enter the key of a host that is not in it yet.
        sudo: become root with sudo.
        sudo_password: what sudo asks for; None if it asks for nothing.
        seconds: that a device may take, in all.
        directory: the absolute path of `import` on them.
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
        """Feed a script to `sh` on the device."""
        command = "sh -s"
        if self._login.sudo:
            asks = self._login.sudo_password is not None
            command = f"sudo {'-S -p otahsm-sudo:' if asks else '-n'} -- sh -s"
            if asks:
                script = f"{self._login.sudo_password}\n{script}"
        done = await self._connection.run(command, input=script, check=False)
        status = 255 if done.exit_status is None else done.exit_status
        printed = str(done.stdout or "") if not status else str(done.stderr or "")
        return status, printed.replace("otahsm-sudo:", "")


def over_ssh(login: Login) -> Callable[[str], AbstractAsyncContextManager[SshShell]]:
    """Return what connects to `[user@]host[:port]` as `connected` does. Raises ConfigError: it is none."""
    login = replace(login, known_hosts=login.known_hosts.expanduser())
    return lambda host: connected(Host.parse(host), login)


@contextlib.asynccontextmanager
async def connected(host: Host, login: Login) -> AsyncIterator[SshShell]:
    """Connect to a device; the block and the connecting together may take `login.seconds`.

    Raises:
        DeviceUnreachableError: it can't be reached, or is too slow.
        DeviceRefusedError: its host key is not known or another, or it takes neither key nor password.
    """
    try:
        async with asyncio.timeout(login.seconds):
            async with await _connect(host, login) as connection:
                yield SshShell(connection, login)
    except TimeoutError:
        raise DeviceUnreachableError(f"{host} took more than {login.seconds:g} s") from None
    except asyncssh.PermissionDenied:
        raise DeviceRefusedError(
            f"{host} takes neither our key nor a password for this user",
            hint="Check the user, --identity or --password-file, and the device's authorized_keys.",
        ) from None
    except (asyncssh.Error, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise DeviceUnreachableError(f"can't reach {host}: {said or type(error).__name__}") from None


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
    """See why a host key is not accepted; enter a new one if that is wanted.

    Raises:
        DeviceRefusedError: it is another than it was, or new and not wanted.
    """
    port = host.port or login.port or _PORT
    key = await asyncssh.get_server_host_key(host.name, port)
    if key is None:
        raise DeviceRefusedError(f"{host} shows no host key that can be checked")
    name = host.name if port == _PORT else f"[{host.name}]:{port}"
    with _locked(login.known_hosts) as text:
        known, *_ = asyncssh.import_known_hosts(text).match(host.name, host.name, port)
        fingerprint = key.get_fingerprint()
        if any(key == one for one in known):
            return  # another task was faster
        if known:
            raise DeviceRefusedError(
                f"{host} shows another host key than it did: {fingerprint}",
                hint=f"If it was made anew: ssh-keygen -R '{name}' -f {login.known_hosts}. If not, somebody"
                " stands between.",
            )
        if not login.accept_new:
            raise DeviceRefusedError(
                f"the host key of {host} is not known: {fingerprint}",
                hint="Compare it with the device's; then run it again with --accept-new.",
            )
        line = f"{name} {key.export_public_key('openssh').decode().strip()}\n"
        _append(login.known_hosts, text, line)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[str]:
    """Hold the file of host keys, and give what is in it. Raises FolderError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.otahsm-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path.read_text(errors="replace") if path.exists() else ""
    except OSError as error:
        raise FolderError(f"can't use {path}: {error.strerror}") from None


def _append(path: Path, text: str, line: str) -> None:
    """Write the file anew with one more line: whole or not at all. Raises OSError."""
    before = text if not text or text.endswith("\n") else f"{text}\n"
    replace_file(path.resolve(), (before + line).encode())
