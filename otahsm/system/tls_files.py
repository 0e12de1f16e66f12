"""Reads TLS files in PEM: a certificate with its key, and CA certificates.

An error names section, key and file, and never quotes what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from otahsm.errors import ConfigError
from otahsm.system.files import PLAIN, Files

_Value = TypeVar("_Value")


class KeyPair(NamedTuple):
    """A certificate, which its issuers may follow, and its key, both in PEM; and the certificate itself."""

    certificate: bytes
    key: bytes
    own: x509.Certificate


class Certificates(NamedTuple):
    """Certificates in PEM, and what they are."""

    pem: bytes
    certificates: Sequence[x509.Certificate]


def read_key_pair(
    section: str, certificate: Path, key: Path, *, check_key: bool = True, files: Files = PLAIN
) -> KeyPair:
    """Read the files that `certificate` and `key` name in a section.

    Args:
        section: its name.
        certificate: the certificate, which its issuers may follow.
        key: its private key.
        check_key: whether to check the numbers of an RSA key; with 4096 bits this takes half a second, and
            gRPC does so itself.
        files: what reads them.

    Raises:
        ConfigError: one can't be read or is malformed, or they don't belong together.
    """
    chain = read_certificates(f"[{section}] certificate", certificate, files)
    load = partial(_public_key, check=check_key)
    what, kind = f"[{section}] key {key}", "private key without a passphrase"
    content, public_key = _parse(files.read(key, what, secret=True), what, kind, load)
    if chain.certificates[0].public_key() != public_key:
        raise ConfigError(
            f"[{section}] certificate {certificate} and key {key} don't belong together",
            hint="Name a certificate and its own private key.",
        )
    return KeyPair(chain.pem, content, chain.certificates[0])


def read_certificates(what: str, path: Path, files: Files = PLAIN) -> Certificates:
    """Read a file of certificates, at least one. Raises ConfigError: it can't be read or is malformed."""
    named = f"{what} {path}"
    content = files.read(path, named)
    return Certificates(*_parse(content, named, "certificate", x509.load_pem_x509_certificates))


def _public_key(pem: bytes, *, check: bool) -> object:
    return load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=not check).public_key()


def _parse(content: bytes, what: str, kind: str, load: Callable[[bytes], _Value]) -> tuple[bytes, _Value]:
    try:
        return content, load(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{what} is not a {kind} in PEM") from None
