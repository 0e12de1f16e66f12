"""Certificates and intents, page by page, and counts of them.

Everything is in order of serial numbers, or in reverse. They are unique, they start with the time, and they
are indexed anyway. So a page starts where the previous one ended, whatever is added in between, and a period
is a range of serial numbers. No statement scans more than `_SCANNED` rows that do not match, and no
transaction lasts longer than one such step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)

from otahsm.access import OwnerFilter
from otahsm.ledger import schema
from otahsm.ledger.query_values import START, CertificateRecord, CountKey, Filter, Page, Status, Tally
from otahsm.ledger.read.owners import is_identity_of
from otahsm.ledger.read.statuses import CONDITIONS, JOINED, STATUS, SUPERSEDED, VOIDED
from otahsm.ledger.schema import certificates, intents, live, replicas, serial_octets
from otahsm.pki.serial import SerialNumber

_SCANNED: Final = 50_000  # rows
_OPEN_AT_ONCE: Final = 30_000  # more than daemons ever have open
_A_DAY: Final = literal_column("86400000000", BigInteger)  # microseconds
_serial: Final = intents.c.serial
_is_stray: Final = _serial < b""  # text or a number: SQLite stores what it is given, and sorts blobs last


def by_serial(connection: Connection, serial: SerialNumber) -> CertificateRecord | None:
    """Return the record with a serial number."""
    return _one(connection, _serial == serial.key)


def by_device(connection: Connection, device_id: str, profile: str) -> CertificateRecord | None:
    """Return a device's current record under a profile: neither voided nor superseded."""
    return _one(connection, (intents.c.device_id == device_id) & (intents.c.profile == profile) & live)


def page(connection: Connection, criteria: Filter, after: bytes, size: int, *, full: bool) -> Page:
    """Return the records that follow a key, in the order of a filter.

    Args:
        connection: any connection.
        criteria: which records, and in which order.
        after: `next_after` of the previous page; `START` for the first page.
        size: the most records to return.
        full: whether to include the certificates.
    """
    if criteria.status is Status.OPEN:
        return _open_page(connection, criteria, after, size, full=full)
    if criteria.device_id:
        return _device_page(connection, criteria, after, size, full=full)
    return _page(connection, criteria, after, size, full=full)


def count(connection: Connection, criteria: Filter, after: bytes) -> Tally:
    """Count the next records after a key, by `CountKey`.

    Args:
        connection: any connection.
        criteria: only its `after`, `before` and order are used.
        after: `next_after` of the previous part; `START` for the first part.
    """
    end = _end_of_step(connection, criteria, after)
    counts = _counts(connection, _range(_serial, criteria, after, end))
    if _has_strays(connection):
        counts += _counts(connection, [_is_stray, *_range(serial_octets, criteria, after, end)])
    return Tally(counts, end)


def _page(connection: Connection, criteria: Filter, after: bytes, size: int, *, full: bool) -> Page:
    query = _records(full=full).where(*_conditions(criteria))
    end: bytes | None = None
    if criteria.status is Status.VOID:
        query = query.where(VOIDED)
    elif not criteria.batch and (criteria.client or criteria.owner or criteria.profile or criteria.status):
        end = _end_of_step(connection, criteria, after)
    inside = _range(_serial, criteria, after, end)
    rows = connection.execute(
        query.where(*inside).order_by(_ordered(_serial, criteria)).limit(size + 1)
    ).all()
    if _has_strays(connection):
        inside = [_is_stray, *_range(serial_octets, criteria, after, end)]
        strays = query.where(*inside).order_by(_ordered(serial_octets, criteria)).limit(size + 1)
        rows = _sorted([*rows, *connection.execute(strays)], criteria)
    return _page_of(rows, size, end)


def _device_page(connection: Connection, criteria: Filter, after: bytes, size: int, *, full: bool) -> Page:
    # One index each. Serial numbers are compared afterwards, so that the planner picks no other index.
    query = _records(full=full).where(*_conditions(criteria), intents.c.device_id == criteria.device_id)
    every = union_all(*(query.where(kind) for kind in (live, SUPERSEDED, VOIDED))).subquery()
    found = select(every).where(*_range(every.c.serial, criteria, after))
    found = found.order_by(_ordered(every.c.serial, criteria)).limit(size + 1)
    return _page_of(connection.execute(found).all(), size, None)


def _open_page(connection: Connection, criteria: Filter, after: bytes, size: int, *, full: bool) -> Page:
    """Find open intents among the ids that no replica has marked as closed."""
    below = connection.execute(select(func.min(replicas.c.closed_below))).scalar() or 0
    ids = (
        select(intents.c.id)
        .select_from(JOINED)
        .where(intents.c.id >= below, CONDITIONS[Status.OPEN])
        .order_by(intents.c.id)
        .limit(_OPEN_AT_ONCE)
    )
    found = connection.execute(ids).scalars().all()
    conditions = [*_range(serial_octets, criteria, after), *_conditions(criteria)]
    if criteria.device_id:
        conditions.append(intents.c.device_id == criteria.device_id)
    query = _records(full=full).where(intents.c.id.in_(found), *conditions)
    return _page_of(_sorted(connection.execute(query), criteria), size, None)


def _page_of(rows: Sequence[Any], size: int, end: bytes | None) -> Page:
    """Return a page from up to `size` + 1 rows; the extra row shows that more follow.

    The next page starts after the key as it is in the row, since a tampered one may have another length.
    """
    return Page([_record(row) for row in rows[:size]], rows[size - 1].serial if len(rows) > size else end)


def _sorted(rows: Iterable[Any], criteria: Filter) -> Sequence[Any]:
    return sorted(rows, key=lambda row: row.serial, reverse=criteria.newest_first)


def _has_strays(connection: Connection) -> bool:
    if connection.dialect.name != "sqlite":
        return False
    first = select(intents.c.id).where(_is_stray).order_by(_serial).limit(1)
    return connection.execute(first).first() is not None


def _counts(connection: Connection, inside: list[ColumnElement[bool]]) -> Counter[CountKey]:
    groups: list[ColumnElement[Any]] = [
        (intents.c.intended_at // _A_DAY).label("day"),
        intents.c.profile,
        intents.c.client,
        func.coalesce(intents.c.policy_client, "").label("policy_client"),
        STATUS,
    ]
    counted = select(*groups, func.count()).select_from(JOINED).where(*inside).group_by(*groups)
    counts: Counter[CountKey] = Counter()
    row: Any
    for row in connection.execute(counted):
        day, profile, client, policy_client, status, number = row
        counts[CountKey(int(day), profile, client, policy_client, Status(status))] += number
    return counts


def _range(
    serial: ColumnElement[bytes], criteria: Filter, after: bytes, last: bytes | None = None
) -> list[ColumnElement[bool]]:
    """Return the bounds of the serial numbers that follow a key, up to the last one of a step, if any."""
    above, ends = (START, [after]) if criteria.newest_first and after != START else (after, [])
    ends += [] if criteria.end_key is None else [criteria.end_key]
    bounds = [serial > above if above >= criteria.first_key else serial >= criteria.first_key]
    if ends:
        bounds.append(serial < min(ends))
    if last is not None:
        bounds.append(serial >= last if criteria.newest_first else serial <= last)
    return bounds


def _ordered(serial: ColumnElement[bytes], criteria: Filter) -> ColumnElement[bytes]:
    return serial.desc() if criteria.newest_first else serial


def _conditions(criteria: Filter) -> list[ColumnElement[bool]]:
    """Return the conditions that don't depend on serial number and device id."""
    conditions: list[ColumnElement[bool]] = []
    if criteria.batch:
        id_of = select(schema.batches.c.id).where(schema.batches.c.name == criteria.batch)
        conditions.append(intents.c.batch_id == id_of.scalar_subquery())
    if criteria.client and ":" in criteria.client:
        conditions.append(intents.c.client == criteria.client)
    elif criteria.client and criteria.owner is None:
        conditions.append(intents.c.policy_client == criteria.client)
    if criteria.owner is not None:
        conditions.append(_belongs_to(criteria.owner))
    if criteria.profile:
        conditions.append(intents.c.profile == criteria.profile)
    if criteria.status is not None:
        conditions.append(CONDITIONS[criteria.status])
    return conditions


def _belongs_to(owner: OwnerFilter) -> ColumnElement[bool]:
    """Select a client's rows by its names in the policy; those without one by identity and certificate."""
    old = (func.coalesce(intents.c.policy_client, "") == "") & or_(
        is_identity_of(intents.c.client, owner),
        intents.c.client_certificate_sha256 == owner.certificate_sha256,
    )
    return intents.c.policy_client.in_(sorted(owner.names)) | old


def _end_of_step(connection: Connection, criteria: Filter, after: bytes) -> bytes | None:
    """Return the last key of a step over rows that may not match; None: to the end."""
    step = select(_serial).where(*_range(_serial, criteria, after)).order_by(_ordered(_serial, criteria))
    return connection.execute(step.offset(_SCANNED - 1).limit(1)).scalar()


def _records(*, full: bool) -> Select[Any]:
    return select(
        serial_octets,
        STATUS,
        intents.c.device_id,
        intents.c.profile,
        intents.c.client,
        intents.c.client_certificate_sha256,
        intents.c.request_id,
        intents.c.spki_sha256,
        intents.c.tbs_sha256,
        intents.c.not_before,
        intents.c.not_after,
        intents.c.intended_at,
        certificates.c.recorded_at,
        intents.c.voided_at,
        intents.c.void_reason,
        (certificates.c.der if full else null()).label("certificate"),
        schema.batches.c.name.label("batch"),
        func.coalesce(intents.c.policy_client, "").label("policy_client"),
    ).select_from(JOINED.outerjoin(schema.batches, schema.batches.c.id == intents.c.batch_id))


def _record(row: Any) -> CertificateRecord:
    serial, status, *rest = row
    return CertificateRecord(SerialNumber.from_key(serial), Status(status), *rest)


def _one(connection: Connection, which: ColumnElement[bool]) -> CertificateRecord | None:
    row = connection.execute(_records(full=True).where(which)).first()
    return None if row is None else _record(row)
