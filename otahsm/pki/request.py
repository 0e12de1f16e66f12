"""Builds certificate signing requests (PKCS#10, RFC 2986) for keys that are made here."""

from __future__ import annotations

from typing import Final

from otahsm.pki.algorithms import SignatureAlgorithm
from otahsm.pki.certificate import assemble
from otahsm.pki.der import SEQUENCE, tlv
from otahsm.pki.names import subject_of

_VERSION_1: Final = bytes.fromhex("020100")
_NO_ATTRIBUTES: Final = bytes.fromhex("a000")


def build_request_info(device_id: str, spki: bytes) -> bytes:
    """Build the CertificationRequestInfo `CN=<device_id>`, which the device's key is to sign, in DER."""
    return tlv(SEQUENCE, _VERSION_1, subject_of(device_id), spki, _NO_ATTRIBUTES)


def assemble_request(request_info: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """Join a CertificationRequestInfo and its signature into a DER CSR."""
    return assemble(request_info, algorithm, signature)  # the same shape: RFC 2986, 4.2 and RFC 5280, 4.1
