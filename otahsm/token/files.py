"""The files of a CA: a ceremony writes them durably and never overwrites one."""

from __future__ import annotations

from pathlib import Path

from asn1crypto import pem

from otahsm.config import CaConfig
from otahsm.errors import ConfigError
from otahsm.pki.chain import Chain, load_chain
from otahsm.pki.keytypes import is_pss
from otahsm.system.durable import create_file, make_folder
from otahsm.system.files import PLAIN, Files


def read_chain(ca: CaConfig, section: str = "ca", files: Files = PLAIN) -> Chain:
    """Read a CA's certificates.

    Args:
        ca: which.
        section: the name of its section, for errors.
        files: what reads it.

    Raises:
        ConfigError: the file can't be read, or holds no chain.
    """
    content = files.read(
        ca.certificate,
        f"[{section}] certificate {ca.certificate}",
        hint="Create the CA with `otahsm ca init`, or with `otahsm ca csr` and `otahsm ca import`.",
    )
    return load_chain(content, str(ca.certificate), pss=is_pss(ca.mechanism))


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


def write_numbered(path: Path, content: bytes, what: str) -> Path:
    """Write a new file as `write_new` does; if the name is taken, use the next one: x.txt, x-2.txt.

    Returns:
        Its path.

    Raises:
        ConfigError: the file can't be written.
    """
    free, number = path, 1
    while not _write(free, content, what):
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def write_new(path: Path, content: bytes, what: str) -> None:
    """Write a new file, durably; `what` names it in errors.

    Raises:
        ConfigError: the file exists or can't be written.
    """
    if not _write(path, content, what):
        raise ConfigError(f"can't write {what} {path}: the file exists")


def _write(path: Path, content: bytes, what: str) -> bool:
    """Return False if there is such a file."""
    try:
        make_folder(path.parent)
        try:
            create_file(path, content)
        except FileExistsError:
            return False
    except OSError as error:
        raise ConfigError(f"can't write {what} {path}: {error.strerror}") from None
    return True
