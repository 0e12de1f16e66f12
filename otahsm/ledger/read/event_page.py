"""Events, page by page."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Select, func, select

from otahsm.ledger.query_values import EventFilter, EventPage
from otahsm.ledger.records import AuditEvent
from otahsm.ledger.schema import events

_SCANNED: Final = 20_000  # rows that one statement looks at
_LATE: Final = 1_000  # how far an event may be from its place in time


def page(connection: Connection, criteria: EventFilter, after: int, size: int) -> EventPage:
    """Return events with ids above one.

    Args:
        connection: any.
        criteria: which.
        after: 0 for the first page.
        size: at most so many.
    """
    newest = connection.execute(select(func.max(events.c.id))).scalar() or 0
    if not after and criteria.after is not None:
        after = _before(connection, criteria.after, newest)
    end = min(after + _SCANNED, newest)
    query = _matching(criteria).where(events.c.id > after, events.c.id <= end)
    rows = connection.execute(query.order_by(events.c.id).limit(size)).all()
    found = [_event(row) for row in rows]
    last = found[-1].id if len(found) == size else max(end, after)
    return EventPage(found, last, at_end=last >= newest)


def _before(connection: Connection, moment: int, newest: int) -> int:
    """Return an id that no event from a moment on is below."""
    first = select(events.c.id).where(events.c.happened_at >= moment).order_by(events.c.happened_at).limit(1)
    found: int | None = connection.execute(first).scalar()
    return newest if found is None else max(0, found - _LATE)


def _matching(criteria: EventFilter) -> Select[Any]:
    query = select(events)
    if criteria.name.endswith("."):
        query = query.where(events.c.name.startswith(criteria.name, autoescape=True))
    elif criteria.name:
        query = query.where(events.c.name == criteria.name)
    if criteria.client:
        query = query.where(events.c.client == criteria.client)
    if criteria.after is not None:
        query = query.where(events.c.happened_at >= criteria.after)
    if criteria.before is not None:
        query = query.where(events.c.happened_at < criteria.before)
    return query


def _event(row: Any) -> AuditEvent:
    return AuditEvent(row.happened_at, row.name, row.client, row.occurrences, row.details, row.id)
