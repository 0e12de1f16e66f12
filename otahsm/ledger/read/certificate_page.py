"""Certificates and intents, page by page, and counts of them.

Everything is in the order of the serial numbers, or the other way round. They are unique, they begin with the
time, and their index is there anyway: so a page begins where the one before ended whatever is added
meanwhile, and a time is a range of them. No statement looks at more than `_SCANNED` rows that do not match,
and no transaction lasts longer than one such step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from otahsm.ledger import schema
from otahsm.ledger.query_values import START, CertificateRecord, CountKey, Filter, Page, Status, Tally
from otahsm.ledger.read.statuses import CONDITIONS, JOINED, STATUS, SUPERSEDED, VOIDED
from otahsm.ledger.schema import certificates, intents, live, replicas
from otahsm.pki import SerialNumber

_SCANNED: Final = 50_000  # rows
_OPEN_AT_ONCE: Final = 30_000  # more than daemons have under way
_A_DAY: Final = literal_column("86400000000", BigInteger)  # microseconds
_serial: Final = intents.c.serial


def by_serial(connection: Connection, serial: SerialNumber) -> CertificateRecord | None:
    """Return the record with a serial number."""
    return _one(connection, _serial == serial.key)


def by_device(connection: Connection, device_id: str, profile: str) -> CertificateRecord | None:
    """Return the record that a device has under a profile: neither voided nor superseded."""
    return _one(connection, (intents.c.device_id == device_id) & (intents.c.profile == profile) & live)


def page(connection: Connection, criteria: Filter, after: bytes, size: int, *, full: bool) -> Page:
    """Return the records that come after a key, in the order that is asked for.

    Args:
        connection: any.
        criteria: which, and in which order.
        after: as `Page` has it; `START` for the first page.
        size: at most so many.
        full: with their certificates.
    """
    if criteria.status is Status.OPEN:
        return _open_page(connection, criteria, after, size, full=full)
    return _page(connection, criteria, after, size, full=full)


def count(connection: Connection, criteria: Filter, after: bytes) -> Tally:
    """Count the next records after a key, by what `CountKey` says.

    Args:
        connection: any.
        criteria: `after` and `before` of it, and the order.
        after: as `Tally` has it; `START` for the first part.
    """
    inside, end = _step(connection, criteria, _range(_serial, criteria, after))
    return Tally(_counts(connection, inside), end)


def _page(connection: Connection, criteria: Filter, after: bytes, size: int, *, full: bool) -> Page:
    inside = _range(_serial, criteria, after)
    query = _records(full=full).where(*_conditions(criteria))
    end: bytes | None = None
    if criteria.device_id:
        # An index each. The serial numbers are looked at afterwards, so that no other index is tempting.
        device = intents.c.device_id == criteria.device_id
        kinds = (live, SUPERSEDED, VOIDED)
        every = union_all(*(query.where(device & kind) for kind in kinds)).subquery()
        query = select(every).where(*_range(every.c.serial, criteria, after))
        query = query.order_by(_ordered(every.c.serial, criteria))
    else:
        if criteria.status is Status.VOID:
            inside.append(VOIDED)
        elif not criteria.batch and (criteria.client or criteria.profile or criteria.status):
            inside, end = _step(connection, criteria, inside)
        query = query.where(*inside).order_by(_ordered(_serial, criteria))
    return _page_of(connection.execute(query.limit(size + 1)).all(), size, end)


def _open_page(connection: Connection, criteria: Filter, after: bytes, size: int, *, full: bool) -> Page:
    """Find open intents where they can be: not below the ids that every replica has said are closed."""
    below = connection.execute(select(func.min(replicas.c.closed_below))).scalar() or 0
    ids = (
        select(intents.c.id)
        .select_from(JOINED)
        .where(intents.c.id >= below, CONDITIONS[Status.OPEN])
        .order_by(intents.c.id)
        .limit(_OPEN_AT_ONCE)
    )
    found = connection.execute(ids).scalars().all()
    conditions = [*_range(_serial, criteria, after), *_conditions(criteria)]
    if criteria.device_id:
        conditions.append(intents.c.device_id == criteria.device_id)
    query = _records(full=full).where(intents.c.id.in_(found), *conditions)
    rows = sorted(connection.execute(query), key=lambda row: row.serial, reverse=criteria.newest_first)
    return _page_of(rows, size, None)


def _page_of(rows: Sequence[Any], size: int, end: bytes | None) -> Page:
    """Make a page of at least one row more than fits; if there are not so many, it ends where they do.

    The next page begins after the key as it is in the row: somebody may have written one of another length.
    """
    return Page([_record(row) for row in rows[:size]], rows[size - 1].serial if len(rows) > size else end)


def _counts(connection: Connection, inside: list[ColumnElement[bool]]) -> dict[CountKey, int]:
    groups: list[ColumnElement[Any]] = [
        (intents.c.intended_at // _A_DAY).label("day"),
        intents.c.profile,
        intents.c.client,
        STATUS,
    ]
    counted = select(*groups, func.count()).select_from(JOINED).where(*inside).group_by(*groups)
    counts: Counter[CountKey] = Counter()
    row: Any
    for row in connection.execute(counted):
        day, profile, client, status, number = row
        counts[CountKey(int(day), profile, client, Status(status))] += number
    return counts


def _range(serial: ColumnElement[bytes], criteria: Filter, after: bytes) -> list[ColumnElement[bool]]:
    """Return the bounds of what is still to come after a key: one below, and above at most one."""
    above, ends = (START, [after]) if criteria.newest_first and after != START else (after, [])
    ends += [] if criteria.end_key is None else [criteria.end_key]
    bounds = [serial > above if above >= criteria.first_key else serial >= criteria.first_key]
    return [*bounds, serial < min(ends)] if ends else bounds


def _ordered(serial: ColumnElement[bytes], criteria: Filter) -> ColumnElement[bytes]:
    return serial.desc() if criteria.newest_first else serial


def _conditions(criteria: Filter) -> list[ColumnElement[bool]]:
    """Return what does not depend on serial number and device id."""
    conditions: list[ColumnElement[bool]] = []
    if criteria.batch:
        id_of = select(schema.batches.c.id).where(schema.batches.c.name == criteria.batch)
        conditions.append(intents.c.batch_id == id_of.scalar_subquery())
    if criteria.client:
        conditions.append(intents.c.client == criteria.client)
    if criteria.profile:
        conditions.append(intents.c.profile == criteria.profile)
    if criteria.status is not None:
        conditions.append(CONDITIONS[criteria.status])
    return conditions


def _step(
    connection: Connection, criteria: Filter, inside: list[ColumnElement[bool]]
) -> tuple[list[ColumnElement[bool]], bytes | None]:
    """Return the bounds of a step over rows that may not match, and its last key; None: to the end."""
    last = select(_serial).where(*inside).order_by(_ordered(_serial, criteria)).offset(_SCANNED - 1).limit(1)
    end = connection.execute(last).scalar()
    if end is None:
        return inside, None
    return [*inside, _serial >= end if criteria.newest_first else _serial <= end], end


def _records(*, full: bool) -> Select[Any]:
    return select(
        _serial,
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
    ).select_from(JOINED.outerjoin(schema.batches, schema.batches.c.id == intents.c.batch_id))


def _record(row: Any) -> CertificateRecord:
    serial, status, *rest = row
    return CertificateRecord(SerialNumber.from_key(serial), Status(status), *rest)


def _one(connection: Connection, which: ColumnElement[bool]) -> CertificateRecord | None:
    row = connection.execute(_records(full=True).where(which)).first()
    return None if row is None else _record(row)
