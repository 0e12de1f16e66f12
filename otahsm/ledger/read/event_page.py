"""Events, page by page."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, select

from otahsm.ledger.query_values import EventFilter, EventPage
from otahsm.ledger.read.owners import is_identity_of
from otahsm.ledger.records import AuditEvent
from otahsm.ledger.schema import events

_SCANNED: Final = 20_000  # rows that one statement scans
_LOOKED_UP: Final = 100_000  # rows of the index over times


def page(connection: Connection, criteria: EventFilter, after: int, size: int) -> EventPage:
    """Return the events that follow an id, in the order of a filter.

    Args:
        connection: any connection.
        criteria: which events, and in which order.
        after: `next_after` of the previous page; 0 for the first page.
        size: the most events to return.
    """
    newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
    if criteria.newest_first:
        floor = _floor(connection, criteria, newest)
        high = min(after - 1, newest) if after else newest
        low = max(high - _SCANNED, floor)
    else:
        low = after or _floor(connection, criteria, newest)
        high = min(low + _SCANNED, newest)
    ordered = events.c.id.desc() if criteria.newest_first else events.c.id
    query = _matching(criteria).where(events.c.id > low, events.c.id <= high).order_by(ordered)
    found = [_event(row) for row in connection.execute(query.limit(size))]
    is_full = len(found) == size
    if criteria.newest_first:
        last = found[-1].id if is_full else low + 1
        return EventPage(found, last, at_end=last <= floor + 1)
    last = found[-1].id if is_full else max(low, high)
    return EventPage(found, last, at_end=last >= newest)


def _floor(connection: Connection, criteria: EventFilter, newest: int) -> int:
    """Return an id that is less than those of all events that match now.

    Ids are in the order of writing. Times need not be, since clocks are set and spooled events are written
    late. So all ids in the requested period are read; if there are too many, the result is 0.
    """
    if criteria.after is None:
        return 0
    in_time = select(events.c.id).where(*_times(criteria)).order_by(events.c.happened_at)
    ids = in_time.limit(_LOOKED_UP + 1).subquery()
    first, count = connection.execute(select(func.min(ids.c.id), func.count(ids.c.id))).one()
    if count > _LOOKED_UP:
        return 0
    return int(first) - 1 if count else newest


def _matching(criteria: EventFilter) -> Select[Any]:
    query = select(events)
    if criteria.name.endswith("."):
        query = query.where(events.c.name.startswith(criteria.name, autoescape=True))
    elif criteria.name:
        query = query.where(events.c.name == criteria.name)
    if criteria.owner is not None:
        mine = is_identity_of(events.c.client, criteria.owner)
        query = query.where((events.c.client == criteria.client) | mine)
    elif criteria.client:
        query = query.where(events.c.client == criteria.client)
    return query.where(*_times(criteria))


def _times(criteria: EventFilter) -> list[ColumnElement[bool]]:
    bounds = []
    if criteria.after is not None:
        bounds.append(events.c.happened_at >= criteria.after)
    if criteria.before is not None:
        bounds.append(events.c.happened_at < criteria.before)
    return bounds


def _event(row: Any) -> AuditEvent:
    return AuditEvent(row.happened_at, row.name, row.client, row.occurrences, row.details, row.id)
