"""The ledger's values for writes and their results. Needs no database to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from otahsm.access import Owner, Quotas, Use
from otahsm.errors import OtahsmError
from otahsm.pki.serial import SerialNumber

# Microseconds between the clocks of replicas: what is later was written by a wrong clock.
SLACK: Final = 600 * 1_000_000

_Result_co = TypeVar("_Result_co", covariant=True)


class Intent(NamedTuple):
    """A certificate that is about to be signed.

    Attributes:
        request_id: the client's id for the request; empty if it gave none, or one derived from the content,
            which can't conflict.
        tbs_sha256: digest of the exact bytes that will be signed.
        not_before, not_after: seconds since the Unix epoch, UTC.
        client: the client's identity: that in its TLS certificate, or its key if the policy pins that.
        intended_at: microseconds since the Unix epoch, UTC.
        batch_id: the id of the batch that it is requested in; None for none.
        quota_id: the id of the quota that it counts in; None for none.
        policy_client: the client's name in the policy; "" if it is not known.
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
    policy_client: str = ""


class WrittenIntent(NamedTuple):
    """An intent, and the slot of the replica that wrote it."""

    intent: Intent
    place: int


class Renewal(NamedTuple):
    """How many seconds before it expires a certificate may be superseded, and afterwards; 0 for never."""

    same_key_seconds: int
    new_key_seconds: int


class Superseded(NamedTuple):
    """The certificate that an intent supersedes, as it was when that was decided.

    Attributes:
        intent_id: its intent.
        serial: its serial number, 20 octets.
        spki_sha256: the digest of its key.
        not_after: when it expires, in seconds since the Unix epoch, UTC.
    """

    intent_id: int
    serial: bytes
    spki_sha256: bytes
    not_after: int


class Accepted(NamedTuple):
    """The intent is durable; its certificate may be signed, once. `supersedes` is None for none."""

    intent_id: int
    supersedes: Superseded | None = None


class Replay(NamedTuple):
    """The certificate that was issued before for the same request, and to whom."""

    certificate: bytes
    serial: SerialNumber
    not_before: int
    not_after: int
    owner: Owner


@dataclass(frozen=True, slots=True)
class InProgress:
    """Another request for the same device is being processed."""


class Conflict(NamedTuple):
    """Device id, key or request id belong to another certificate; `message` names it, for its `owner`."""

    message: str
    owner: Owner


class Barred(NamedTuple):
    """The certificate of the device or the key is revoked; `message` names it, for its `owner`."""

    message: str
    owner: Owner


class QuotaLimits(NamedTuple):
    """The quotas of a client, and the names of the rows that count with its own: those that it had before."""

    quotas: Quotas
    formerly: frozenset[str] = frozenset()


class QuotaReset(NamedTuple):
    """A row of a quota that is reset: its id, its client, the newest intent, and the use before."""

    quota_id: int
    client: str
    newest: int
    use: Use


class BatchRefusal(NamedTuple):
    """The batch is full, or closed if not `full`; `message` says which."""

    full: bool
    message: str


class OverQuota(NamedTuple):
    """The client has used its quota: `message` says which, and when to retry.

    `retry_after` is in seconds; None for never.
    """

    message: str
    retry_after: float | None


JournalResult: TypeAlias = Accepted | Replay | InProgress | Conflict | Barred | BatchRefusal | OverQuota


class BatchTerms(NamedTuple):
    """The terms of a batch, which never change.

    Attributes:
        device_count: the maximum number of certificates.
        scheme: how device ids are chosen, encoded by `Scheme.text`.
        deadline: microseconds since the Unix epoch, UTC; None for none.
        clients: the clients that may issue in it, by name in the policy or identity; empty for all.
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
    """A serial number, and when its certificate was recorded (microseconds since the Unix epoch)."""

    serial: SerialNumber
    recorded_at: int


class AuditEvent(NamedTuple):
    """An event of the audit log.

    Attributes:
        happened_at: microseconds since the Unix epoch, UTC.
        name: an `otahsm.transparency.audit.EventName`.
        client: the client that caused it.
        occurrences: how often it happened.
        details: a JSON object in canonical form (RFC 8785).
        id: assigned by the ledger; 0 if it is not written yet.
    """

    happened_at: int
    name: str
    client: str
    occurrences: int
    details: str
    id: int = 0


class Vouched(NamedTuple):
    """What an operator has accepted, and the audit event: see `otahsm.ledger.write.takeover`."""

    digest: str
    event: AuditEvent


# Makes the audit event of a change from its result. It may be called more than once.
EventFactory: TypeAlias = Callable[[_Result_co], AuditEvent]


class Change(NamedTuple, Generic[_Result_co]):
    """The result of an operator's change, and the event that was written in its transaction.

    `event` is None if nothing changed: then nothing was written.
    """

    result: _Result_co
    event: AuditEvent | None


class BatchState(NamedTuple):
    """A batch, the number of its certificates, and the first and last of them."""

    batch: Batch
    issued: int
    first: Issue | None
    last: Issue | None


class RevocationRequest(NamedTuple):
    """A request to revoke a certificate, or all certificates of a device.

    Attributes:
        serial: the certificate's serial number; None to revoke by device.
        device_id: the device; empty if there is a serial number.
        profile: only certificates under this profile; empty for all.
        reason: an `otahsm.pki.Reason`.
    """

    serial: SerialNumber | None
    device_id: str
    profile: str
    reason: str


class Revocation(NamedTuple):
    """A durably revoked certificate.

    Attributes:
        revoked_at: when it was revoked, in seconds since the Unix epoch, UTC.
        reason: the original reason.
        before: whether it had been revoked before this request.
    """

    serial: SerialNumber
    device_id: str
    profile: str
    revoked_at: int
    reason: str
    before: bool


# An error: it is held, or can't even be held.
RevocationAnswer: TypeAlias = list[Revocation] | InProgress | OtahsmError


class CrlNumber(NamedTuple):
    """A new CRL number, and the thisUpdate that goes with it, in seconds since the Unix epoch."""

    number: int
    this_update: int


class CrlRow(NamedTuple):
    """Metadata of a CRL. Times are in seconds since 1970, UTC; `revoked` is the number of its entries."""

    number: int
    this_update: int
    next_update: int
    revoked: int


class StoredCrl(NamedTuple):
    """A CRL in the ledger: its URL or name, its metadata, and its DER."""

    url: str
    row: CrlRow
    der: bytes
