"""Files that a ceremony writes: durably, and never over another."""

from __future__ import annotations

import os
from pathlib import Path

from asn1crypto import pem

from otahsm.errors import ConfigError


def write_certificate(path: Path, der: bytes) -> None:
    """Write a new CA certificate as PEM, durably; never over an existing file.

    Raises:
        ConfigError: the file exists or can't be written.
    """
    write_new(path, pem.armor("CERTIFICATE", der), "the CA certificate")


def write_verifier_key(path: Path, vkey: str) -> None:
    """Write a new verifier key (c2sp.org/signed-note), durably; never over an existing file.

    Raises:
        ConfigError: the file exists or can't be written.
    """
    write_new(path, f"{vkey}\n".encode(), "the verifier key")


def write_new(path: Path, content: bytes, what: str) -> None:
    """Write a new file, durably; `what` names it in errors.

    Raises:
        ConfigError: the file exists or can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{what} {path} can't be written: {error.strerror}") from None
