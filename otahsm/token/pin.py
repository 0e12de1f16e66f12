"""The user PIN, from where `pin-source` says that it is. Only signers and the operator's commands read it.

A PIN that a person types when the daemon starts is kept in a memory file (memfd_create(2)) that the daemon
holds open and never reads: only the signers, which inherit it, do. So it is not in the daemon's memory.
"""

from __future__ import annotations

import getpass
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

from otahsm.config import PinSource
from otahsm.errors import ConfigError

TYPED: Final = "OTAHSM_PIN_FD"  # in the environment: the memory file with a PIN that was typed
_MAX_PIN_BYTES: Final = 1024
_COMMAND_SECONDS: Final = 30.0
_PROMPT: Final = "Token user PIN: "


def read_pin(source: PinSource) -> str:
    """Get the PIN; one line end after it is dropped.

    Raises:
        ConfigError: it is not there, is empty, or others could read it too.
    """
    match source.kind:
        case "file":
            octets = _read_file(Path(source.value), f"the PIN file {source.value}")
        case "systemd-credential":
            octets = _read_credential(source.value)
        case "command":
            octets = _run(source.value)
        case "env":
            octets = os.environb.get(source.value.encode(), b"")
        case "prompt":
            octets = _read_typed()
    where = _where(source)
    try:
        pin = octets.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:  # it would quote the PIN
        raise ConfigError(f"the PIN from {where} is not UTF-8 text") from None
    if not pin or len(octets) > _MAX_PIN_BYTES:
        raise ConfigError(f"the PIN from {where} is {'too long' if pin else 'empty'}")
    return pin


def ask_for_pin() -> None:
    """Have a process of its own ask for the PIN on the terminal, and keep it in a memory file for signers.

    This process never sees what is in it.

    Raises:
        ConfigError: there is no terminal, or nothing was typed.
    """
    file = os.memfd_create("otahsm-pin")  # close-on-exec: only who is given it has it
    command = (sys.executable, "-P", "-m", __name__)
    asked = subprocess.run(command, pass_fds=(file,), env={**os.environ, TYPED: str(file)}, check=False)
    if asked.returncode:
        os.close(file)
        raise ConfigError(
            "pin-source is prompt:, and no PIN was typed",
            hint="Start it on a terminal, or let pin-source name a file, a systemd credential or a command.",
        )
    os.environ[TYPED] = str(file)


def typed_pin() -> tuple[int, ...]:
    """Return the descriptor of the memory file, for signers to inherit, if a PIN was typed."""
    return (int(os.environ[TYPED]),) if TYPED in os.environ else ()


def _where(source: PinSource) -> str:
    return {
        "file": f"the file {source.value}",
        "systemd-credential": f"the systemd credential {source.value}",
        "command": "the command in pin-source",
        "env": f"the environment variable {source.value}",
        "prompt": "the terminal",
    }[source.kind]


def _read_file(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(
                    f"{what} must be a file that only its owner may read", hint=f"chmod 600 {path}"
                )
            return file.read(_MAX_PIN_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what} can't be read: {error.strerror}") from None


def _read_credential(name: str) -> bytes:
    """Read what systemd gave the service, in a folder for it alone (systemd.exec(5), LoadCredential=)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"there is no systemd credential {name}: systemd gave this process none",
            hint=f"Put LoadCredential={name}:/path/of/the/pin (or LoadCredentialEncrypted=) into the unit.",
        )
    try:
        with (Path(folder) / name).open("rb") as file:
            return file.read(_MAX_PIN_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the systemd credential {name} can't be read: {error.strerror}") from None


def _run(command: str) -> bytes:
    program = shlex.split(command)
    try:
        ran = subprocess.run(
            program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_COMMAND_SECONDS, check=False
        )
    except OSError as error:
        raise ConfigError(f"the command for the PIN, {program[0]}, can't be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"the command for the PIN, {program[0]}, took more than {_COMMAND_SECONDS:g} s"
        ) from None
    if ran.returncode:
        raise ConfigError(f"the command for the PIN, {program[0]}, ended with {ran.returncode}")
    return ran.stdout


def _read_typed() -> bytes:
    if TYPED in os.environ:
        return os.pread(int(os.environ[TYPED]), _MAX_PIN_BYTES + 1, 0)
    if not sys.stdin.isatty():
        raise ConfigError(
            "pin-source is prompt:, and there is no terminal",
            hint="Run it on a terminal, or let pin-source name a file, a systemd credential or a command.",
        )
    return getpass.getpass(_PROMPT).encode()


def _ask() -> None:
    """Ask for the PIN and write it into the memory file: the main of the process that asks."""
    file = int(os.environ.pop(TYPED))
    try:
        pin = _read_typed()
    except (ConfigError, EOFError, KeyboardInterrupt):
        sys.exit(1)
    os.write(file, pin)
    sys.exit(0 if pin else 1)


if __name__ == "__main__":
    _ask()
