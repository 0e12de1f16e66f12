"""The ledger's values for queries and their results. Needs no database to import."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from otahsm.access import Owner, OwnerFilter
from otahsm.ledger.records import AuditEvent
from otahsm.pki.serial import SERIAL_BYTES, SerialNumber, first_key

START: Final = bytes(SERIAL_BYTES)  # where every walk begins: not the key of any serial number


class Status(StrEnum):
    """The status of an intent; its conditions in SQL are in `otahsm.ledger.read.statuses`.

    OPEN: it is being signed, or its daemon died and it was not voided yet. ISSUED: its certificate is in the
    ledger. SUPERSEDED: issued, and another may replace it. REVOKED: issued, and on the CRL. VOID: it failed,
    and no client has seen a certificate.
    """

    OPEN = "open"
    ISSUED = "issued"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    VOID = "void"


class Filter(NamedTuple):
    """Selects records, those that match every attribute that is set, and their order.

    Attributes:
        device_id, profile, batch: empty for any.
        client: an identity, or a name in the policy; empty for any.
        after, before: milliseconds since the Unix epoch, UTC, of the time that serial numbers start with;
            `after` is inclusive, `before` exclusive.
        newest_first: whether to return the greatest serial numbers first.
        owner: the client that they must belong to; None for any.
    """

    device_id: str = ""
    client: str = ""
    profile: str = ""
    status: Status | None = None
    after: int | None = None
    before: int | None = None
    batch: str = ""
    newest_first: bool = False
    owner: OwnerFilter | None = None

    @property
    def first_key(self) -> bytes:
        """The smallest key of a serial number that may match."""
        return first_key(self.after or 0)

    @property
    def end_key(self) -> bytes | None:
        """The smallest key that is too large to match; None if there is no limit."""
        return None if self.before is None else first_key(self.before)


class CertificateRecord(NamedTuple):
    """An intent, and its certificate if it was issued.

    Attributes:
        client: the client's identity, and client_certificate_sha256 that of its certificate.
        request_id: the client's id for the request, or empty.
        not_before, not_after: seconds since the Unix epoch, UTC.
        intended_at, recorded_at, voided_at: microseconds since the Unix epoch, UTC; None if it was not.
        certificate: DER; None if there is none, or it was not requested.
        batch: the name of its batch; None for none.
    """

    serial: SerialNumber
    status: Status
    device_id: str
    profile: str
    client: str
    client_certificate_sha256: bytes
    request_id: str
    spki_sha256: bytes
    tbs_sha256: bytes
    not_before: int
    not_after: int
    intended_at: int
    recorded_at: int | None
    voided_at: int | None
    void_reason: str | None
    certificate: bytes | None
    batch: str | None
    policy_client: str

    @property
    def owner(self) -> Owner:
        """The client that it belongs to."""
        return Owner(self.client, self.client_certificate_sha256, self.policy_client)


class EventFilter(NamedTuple):
    """Selects events, those that match every attribute that is set, and their order.

    Attributes:
        name: a name that ends in a dot matches all that start with it; empty for any.
        client: an identity, or a name in the policy; empty for any.
        owner: the client that `client` names in the policy, if it does.
        after, before: microseconds since the Unix epoch; `after` is inclusive, `before` exclusive.
        newest_first: whether to return the latest first.
    """

    name: str = ""
    client: str = ""
    after: int | None = None
    before: int | None = None
    newest_first: bool = False
    owner: OwnerFilter | None = None


class EventPage(NamedTuple):
    """Events in the requested order, and the id after which, in that order, the next page starts.

    There may be fewer than requested, or none. `at_end`: there are no more events now; there may be later,
    unless the newest come first.
    """

    events: list[AuditEvent]
    next_after: int
    at_end: bool


class Page(NamedTuple):
    """Records in the requested order, and the key after which, in that order, the next page starts.

    There may be fewer than requested, or none, even if there is a next page. `next_after` is None at the end.
    It has 20 octets, unless a row was tampered with.
    """

    records: list[CertificateRecord]
    next_after: bytes | None


class CountKey(NamedTuple):
    """The attributes that records are counted by; `day` is in days since the Unix epoch, UTC."""

    day: int
    profile: str
    client: str
    policy_client: str
    status: Status


class Tally(NamedTuple):
    """Counts of a part of the ledger, and the key after which the next part starts; None at the end."""

    counts: dict[CountKey, int]
    next_after: bytes | None
