"""Reads the user PIN from its `pin-source`. Only signers and the operator's commands read it.

A PIN that a person types when the daemon starts is kept in a memory file (memfd_create(2)) that the daemon
holds open and never reads: only the signers, which inherit it, do. So it is not in the daemon's memory.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError
from otahsm.pkcs11_names import PinSource
from otahsm.system.hardening import harden
from otahsm.system.secret_files import MAX_SECRET_BYTES, one_line, read_secret_file, run_for_secret

TYPED: Final = "OTAHSM_PIN_FD"  # in the environment: the memory file with a PIN that was typed
_PROMPT: Final = "Token user PIN: "


def read_pin(source: PinSource) -> str:
    """Return the PIN, without the newline after it.

    Raises:
        ConfigError: the PIN is missing or empty, or other users can read it.
    """
    match source.kind:
        case "file":
            octets = read_secret_file(Path(source.value), f"the PIN file {source.value}")
        case "systemd-credential":
            octets = _read_credential(source.value)
        case "command":
            octets = run_for_secret(source.value, "the PIN")
        case "env":
            octets = os.environb.get(source.value.encode(), b"")
        case "prompt":
            octets = _read_typed()
    return one_line(octets, f"the PIN from {_where(source)}")


def ask_for_pin() -> None:
    """Ask for the PIN on the terminal in a child process, which keeps it in a memory file for the signers.

    This process never reads the file.

    Raises:
        ConfigError: there is no terminal, or nothing was typed.
    """
    file = os.memfd_create("otahsm-pin")  # close-on-exec: only who is given it has it
    command = (sys.executable, "-P", "-m", __name__)
    asked = subprocess.run(command, pass_fds=(file,), env={**os.environ, TYPED: str(file)}, check=False)
    if asked.returncode:
        os.close(file)
        raise ConfigError(
            "pin-source is prompt:, and no PIN was entered",
            hint="Run it on a terminal, or set pin-source to a file, a systemd credential or a command.",
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


def _read_credential(name: str) -> bytes:
    """Read what systemd gave the service, in a folder for it alone (systemd.exec(5), LoadCredential=)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"there is no systemd credential {name}: systemd passed none to this process",
            hint=f"Put LoadCredential={name}:/path/of/the/pin (or LoadCredentialEncrypted=) into the unit.",
        )
    try:
        with (Path(folder) / name).open("rb") as file:
            return file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read the systemd credential {name}: {error.strerror}") from None


def _read_typed() -> bytes:
    if TYPED in os.environ:
        return os.pread(int(os.environ[TYPED]), MAX_SECRET_BYTES + 1, 0)
    if not sys.stdin.isatty():
        raise ConfigError(
            "pin-source is prompt:, and there is no terminal",
            hint="Run it on a terminal, or set pin-source to a file, a systemd credential or a command.",
        )
    return getpass.getpass(_PROMPT).encode()


def _ask() -> None:
    """Ask for the PIN and write it into the memory file: the main of the process that asks."""
    harden()
    file = int(os.environ.pop(TYPED))
    try:
        pin = _read_typed()
    except (ConfigError, EOFError, KeyboardInterrupt):
        sys.exit(1)
    os.write(file, pin)
    sys.exit(0 if pin else 1)


if __name__ == "__main__":
    _ask()
