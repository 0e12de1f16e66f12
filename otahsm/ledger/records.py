"""What goes into the ledger and what it answers, as values. Needs no database to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from otahsm.pki import SerialNumber

_Result_co = TypeVar("_Result_co", covariant=True)


class Intent(NamedTuple):
    """A certificate that is about to be signed.

    Attributes:
        request_id: the client's own name for the request; empty if it gave none, or one derived from the
            content: that can't be in conflict.
        tbs_sha256: digest of the exact bytes that will be signed.
        not_before, not_after: seconds since the Unix epoch, UTC.
        client: identity in the caller's TLS certificate.
        intended_at: microseconds since the Unix epoch, UTC.
        batch_id: the id of the batch that it is to count in; None for none.
        quota_id: the id of the quota that it counts in; None for none.
    """

    serial: SerialNumber
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
    batch_id: int | None = None
    quota_id: int | None = None


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
    """The same was issued before: this is it. All but the certificate are as in `Intent`."""

    certificate: bytes
    serial: SerialNumber
    not_before: int
    not_after: int
    client: str
    client_certificate_sha256: bytes


@dataclass(frozen=True, slots=True)
class InProgress:
    """The same is being issued by another request at this moment."""


class Conflict(NamedTuple):
    """Device id, key or request id belong to another certificate; `message` names it."""

    message: str


class Barred(NamedTuple):
    """The certificate of the device or the key is revoked; `message` names it."""

    message: str


class BatchRefusal(NamedTuple):
    """The batch takes no more: it is full, or else closed; `message` says it."""

    full: bool
    message: str


class OverQuota(NamedTuple):
    """The client has had its share: `message` says of what, and when to come back.

    `retry_after` is in seconds; None: never.
    """

    message: str
    retry_after: float | None


JournalResult: TypeAlias = Accepted | Replay | InProgress | Conflict | Barred | BatchRefusal | OverQuota

# The CRLs that have no URL of their own: what the ledger calls them.
COMPLETE: Final = ""
AUTHORITIES: Final = "authorities"


class BatchTerms(NamedTuple):
    """What is ordered; it never changes.

    Attributes:
        device_count: at most so many certificates.
        scheme: where device ids come from, as clients wrote it.
        deadline: microseconds since the Unix epoch, UTC; None: there is none.
        clients: who may issue in it; empty for everybody.
    """

    name: str
    profile: str
    device_count: int
    scheme: str
    deadline: int | None
    clients: tuple[str, ...]


class Batch(NamedTuple):
    """A batch in the ledger. Times as in `BatchTerms`; `taken` counts its intents that are not void."""

    id: int
    terms: BatchTerms
    creator: str
    created_at: int
    closed_at: int | None
    taken: int


class Issue(NamedTuple):
    """A serial number, and when its certificate was recorded (microseconds)."""

    serial: SerialNumber
    recorded_at: int


class AuditEvent(NamedTuple):
    """Something that happened, other than to certificates.

    Attributes:
        happened_at: microseconds since the Unix epoch, UTC.
        name: of a fixed vocabulary: see `otahsm.transparency.audit`.
        client: whose doing it was.
        occurrences: how often the same happened.
        details: a JSON object in canonical form (RFC 8785).
        id: given by the ledger; 0 for one that is not written yet.
    """

    happened_at: int
    name: str
    client: str
    occurrences: int
    details: str
    id: int = 0


# Makes the event that tells of a change from what the change led to. It may be called more than once.
EventFactory: TypeAlias = Callable[[_Result_co], AuditEvent]


class Change(NamedTuple, Generic[_Result_co]):
    """What an operator's change led to, and the event that was written in its transaction.

    `event` is None if nothing was changed: then nothing was written.
    """

    result: _Result_co
    event: AuditEvent | None


class BatchState(NamedTuple):
    """A batch, how many certificates it has, and the first and last of them."""

    batch: Batch
    issued: int
    first: Issue | None
    last: Issue | None


class RevocationRequest(NamedTuple):
    """What is to be revoked.

    Attributes:
        serial: the certificate's; None to revoke the certificates of the device.
        device_id: whose certificates; empty if there is a serial number.
        profile: those under this profile alone; empty for all.
        reason: why, as `otahsm.pki.Reason` calls it.
    """

    serial: SerialNumber | None
    device_id: str
    profile: str
    reason: str


class Revocation(NamedTuple):
    """A certificate that is revoked, durably.

    Attributes:
        revoked_at: since when, in seconds since the Unix epoch, UTC.
        reason: the one that stands.
        before: whether it was revoked before this was asked.
    """

    serial: SerialNumber
    device_id: str
    profile: str
    revoked_at: int
    reason: str
    before: bool


RevocationAnswer: TypeAlias = list[Revocation] | InProgress


class CrlNumber(NamedTuple):
    """A number that no CRL ever had, and the thisUpdate that goes with it, in seconds."""

    number: int
    this_update: int


class CrlRow(NamedTuple):
    """What the ledger says of a CRL. Times are in seconds since 1970, UTC; `revoked` counts its entries."""

    number: int
    this_update: int
    next_update: int
    revoked: int


class StoredCrl(NamedTuple):
    """A CRL in the ledger: what it is called, what is said of it, and it, in DER."""

    url: str
    row: CrlRow
    der: bytes
