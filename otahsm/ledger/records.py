"""What goes into the ledger and what it answers, as values. Needs no database to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


class Intent(NamedTuple):
    """A certificate that is about to be signed.

    Attributes:
        serial: 20 octets, big-endian.
        request_id: the client's own name for the request; empty if it gave none, or one derived from the
            content: that can't be in conflict.
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


class Renewal(NamedTuple):
    """When a certificate may be superseded by a new one: in the last so many seconds of its life; 0: never.

    A certificate that has ended may be superseded, too.
    """

    same_key_seconds: int
    new_key_seconds: int


class Accepted(NamedTuple):
    """The intent is durable; its certificate may be signed, once."""

    intent_id: int


class Replay(NamedTuple):
    """The same was issued before: this is it. Serial and validity are as in `Intent`."""

    certificate: bytes
    serial: bytes
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class InProgress:
    """The same is being issued by another request at this moment."""


class Conflict(NamedTuple):
    """Device id, key or request id belong to another certificate; `message` names it."""

    message: str


Answer: TypeAlias = Accepted | Replay | InProgress | Conflict
