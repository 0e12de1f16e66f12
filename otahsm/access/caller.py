"""The caller, as its TLS certificate names it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

_FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


class Caller(NamedTuple):
    """Who makes a call, by a certificate that TLS has verified.

    Attributes:
        identity: "uri:", "dns:", "cn:" or "sha256:", and a name: see `otahsm.daemon.edge.tls`.
        certificate_sha256: the SHA-256 of the certificate in DER.
        spki_sha256: the SHA-256 of its public key (SubjectPublicKeyInfo, in DER).
        not_after: when the certificate expires.
    """

    identity: str
    certificate_sha256: bytes
    spki_sha256: bytes = b""
    not_after: datetime = _FOREVER
