"""Who is denied: what the last audit event about a client says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, select

from otahsm.ledger.schema import denied_clients, events
from otahsm.system.spool import storable

DENIED: Final = "client.cut_off"
ALLOWED: Final = "client.let_in"

_CHUNK: Final = 1000


class DenialEvent(NamedTuple):
    """The audit event that denied a client: its time in microseconds, who did it, why, and its id."""

    happened_at: int
    client: str
    reason: str
    id: int = 0


def denial_events(connection: Connection) -> dict[str, DenialEvent]:
    """Return who is denied according to the audit log, by subject."""
    denied: dict[str, DenialEvent] = {}
    query = select(events).where(events.c.name.in_((DENIED, ALLOWED))).order_by(events.c.id)
    for row in connection.execute(query.execution_options(yield_per=_CHUNK)):
        try:
            details = json.loads(row.details)
            subject, reason = str(details["subject"]), str(details.get("reason", ""))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # it was changed: its leaf says so
        if row.name == DENIED:
            denied[subject] = DenialEvent(row.happened_at, row.client, reason, row.id)
        else:
            denied.pop(subject, None)
    return denied


def says(event: DenialEvent, row: Any) -> bool:
    """Return whether an event says what a row of `denied_clients` does."""
    known = DenialEvent(row.denied_at, storable(str(row.client)), storable(str(row.reason)))
    return event._replace(id=0) == known


def check_denials(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield denials that the audit log does not have, or has otherwise, and those that are missing."""
    said = denial_events(connection)
    for row in connection.execute(select(denied_clients)):
        event = said.pop(storable(str(row.subject)), None)
        if event is None:
            yield f"denied client {row.subject!a}", "the audit log does not say that it is denied"
        elif not says(event, row):
            yield f"denied client {row.subject!a}", "differs from the audit event that denied it"
    for subject in said:
        yield f"denied client {subject!a}", "is missing: the audit log says that it is denied"
