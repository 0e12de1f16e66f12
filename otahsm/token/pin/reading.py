"""Reads the user PIN from its `pin-source`. Only signers and the operator's commands read it.

A PIN that a person types when the daemon starts is in a memory file that signers inherit (`keeper`).
"""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError
from otahsm.pkcs11_names import PinSource
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
            octets = read_typed()
    return one_line(octets, f"the PIN from {_where(source)}")


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
    return read_secret_file(Path(folder) / name, f"the systemd credential {name}")


def read_typed() -> bytes:
    """Return what is typed on the terminal, or was. Raises ConfigError: there is no terminal."""
    if TYPED in os.environ:
        return os.pread(int(os.environ[TYPED]), MAX_SECRET_BYTES + 1, 0)
    if not sys.stdin.isatty():
        raise ConfigError(
            "pin-source is prompt:, and there is no terminal",
            hint="Run it on a terminal, or set pin-source to a file, a systemd credential or a command.",
        )
    return getpass.getpass(_PROMPT).encode()
