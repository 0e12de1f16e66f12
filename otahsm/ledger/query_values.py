"""What can be asked of the ledger and what it answers, as values. Needs no database to import."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from otahsm.ledger.records import AuditEvent
from otahsm.pki import SERIAL_BYTES, SerialNumber, first_key

START: Final = bytes(SERIAL_BYTES)  # where every walk begins: not the key of any serial number


class Status(StrEnum):
    """What came of an intent; what it means in SQL is in `otahsm.ledger.read.statuses`.

    OPEN: it is being signed, or its daemon is gone and nobody has closed it yet. ISSUED: its certificate is
    in the ledger. SUPERSEDED: so it is, and another may take its place. REVOKED: so it is, and on the CRL.
    VOID: nothing came of it, and no client has seen a certificate.
    """

    OPEN = "open"
    ISSUED = "issued"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    VOID = "void"


class Filter(NamedTuple):
    """Which records are wanted: those that everything given fits. And in which order.

    Attributes:
        device_id, client, profile, batch: empty for any.
        after, before: milliseconds since the Unix epoch, UTC, of the time that serial numbers begin with;
            from `after` on, and before `before`.
        newest_first: in the order of the serial numbers, but the greatest first.
    """

    device_id: str = ""
    client: str = ""
    profile: str = ""
    status: Status | None = None
    after: int | None = None
    before: int | None = None
    batch: str = ""
    newest_first: bool = False

    @property
    def first_key(self) -> bytes:
        """The smallest key of a serial number that may be wanted."""
        return first_key(self.after or 0)

    @property
    def end_key(self) -> bytes | None:
        """The key from which on none is wanted; None: there is no end."""
        return None if self.before is None else first_key(self.before)


class CertificateRecord(NamedTuple):
    """An intent, and what came of it.

    Attributes:
        request_id: the client's own name for the request, or empty.
        not_before, not_after: seconds since the Unix epoch, UTC.
        intended_at, recorded_at, voided_at: microseconds since the Unix epoch, UTC; None: it was not.
        certificate: DER; None if there is none, or it was not asked for.
        batch: the name of the batch that it is in; None for none.
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


class EventFilter(NamedTuple):
    """Which events are wanted: those that everything given fits. And in which order.

    Attributes:
        name: one that ends in a dot stands for all that begin with it; empty for any.
        client: empty for any.
        after, before: microseconds since the Unix epoch; from `after` on, and before `before`.
        newest_first: what was written last comes first.
    """

    name: str = ""
    client: str = ""
    after: int | None = None
    before: int | None = None
    newest_first: bool = False


class EventPage(NamedTuple):
    """Events in the order that was asked for, and the id after which, in that order, the next page begins.

    There may be fewer than were asked for, also none. `at_end`: there are no more now; later there may be,
    unless the newest come first.
    """

    events: list[AuditEvent]
    next_after: int
    at_end: bool


class Page(NamedTuple):
    """Entries in the order that was asked for, and the key after which, in that order, the next page begins.

    There may be fewer than were asked for, also none, and still a next page. `next_after` is None at the end;
    it has 20 octets, unless somebody wrote a row with another serial number than otahsm does.
    """

    records: list[CertificateRecord]
    next_after: bytes | None


class CountKey(NamedTuple):
    """What records that are counted together have in common; `day` is in days since the Unix epoch, UTC."""

    day: int
    profile: str
    client: str
    status: Status


class Tally(NamedTuple):
    """Counts of a part of the ledger, and the key after which the next part begins; None at the end."""

    counts: dict[CountKey, int]
    next_after: bytes | None
