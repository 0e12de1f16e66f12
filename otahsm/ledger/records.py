"""What goes into the ledger and what it answers, as values. Needs no database to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Intent:
    """A certificate that is about to be signed.

    Attributes:
        serial: 20 octets, big-endian.
        tbs_sha256: digest of the exact bytes that will be signed.
        not_before, not_after: seconds since the Unix epoch, UTC.
        client: identity in the caller's TLS certificate.
        intended_at: microseconds since the Unix epoch, UTC.
    """

    serial: bytes
    request_id: str
    profile: str
    device_id: str
    spki_sha256: bytes
    tbs_sha256: bytes
    issuer_key_id: bytes
    not_before: int
    not_after: int
    client: str
    client_certificate_sha256: bytes
    intended_at: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The intent is durable; its certificate may be signed, once."""

    intent_id: int


@dataclass(frozen=True, slots=True)
class Replay:
    """The same was issued before: this is it. Serial and validity are as in `Intent`."""

    certificate: bytes
    serial: bytes
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class InProgress:
    """The same is being issued by another request at this moment."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Device id, key or request id belong to another certificate; `message` names it."""

    message: str


Answer: TypeAlias = Accepted | Replay | InProgress | Conflict
