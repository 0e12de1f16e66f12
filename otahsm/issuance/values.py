"""What goes into the cycle and what comes out."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from otahsm.errors import OtahsmError
from otahsm.pki import Validity


class Caller(NamedTuple):
    """Who asks: the identity in the client's TLS certificate, and that certificate's SHA-256."""

    identity: str
    certificate_sha256: bytes


class Order(NamedTuple):
    """One CSR for one device under one profile, from one caller.

    Attributes:
        request_id: the client's name for it; empty to have one derived.
        profile: empty for the default profile.
        device_id: what the CSR's common name must be; empty to take it as it is.
        csr: PKCS#10 in DER, not looked at yet.
    """

    caller: Caller
    request_id: str
    profile: str
    device_id: str
    csr: bytes


class Issued(NamedTuple):
    """A certificate that is durably in the ledger, and so may be seen."""

    request_id: str
    device_id: str
    serial: int
    validity: Validity
    certificate: bytes
    replayed: bool


Outcome: TypeAlias = Issued | OtahsmError
