"""Reading CSR files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from asn1crypto import pem
from asn1crypto.csr import CertificationRequest as Asn1Csr

from otahsm.errors import ConfigError
from otahsm.system.files import read_file


def public_key_sha256(csr: bytes) -> bytes:
    """Return the SHA-256 of the public key (SubjectPublicKeyInfo) of a CSR in DER, as in the ledger."""
    info = Asn1Csr.load(csr)["certification_request_info"]["subject_pk_info"]
    return hashlib.sha256(info.dump()).digest()


def load_csr(path: Path) -> bytes:
    """Read a CSR file, PEM or DER; return its content as DER, unchecked.

    Raises:
        ConfigError: it can't be read, or is PEM but not a CSR.
    """
    content = read_file(path)
    if not pem.detect(content):
        return content
    try:
        kind, _, der = pem.unarmor(content)
    except ValueError:
        raise ConfigError(f"{path} is not a complete PEM file") from None
    if kind not in ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"):
        raise ConfigError(f"{path} contains a {kind}, not a CERTIFICATE REQUEST")
    return bytes(der)
