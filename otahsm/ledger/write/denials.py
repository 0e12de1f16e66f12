"""Denying clients and allowing them again. Both write an audit event."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from otahsm.access import Denied
from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.read.denied import denied_of
from otahsm.ledger.records import Change, EventFactory
from otahsm.ledger.schema import denied_clients
from otahsm.ledger.write import events


def deny(connection: Connection, denied: Denied, make_event: EventFactory[Denied]) -> Change[Denied]:
    """Deny a client, in a transaction; the result is the denial, or the existing one."""
    row = {
        "subject": denied.subject,
        "reason": denied.reason,
        "client": denied.client,
        "denied_at": denied.at,
    }
    insert = insert_into(denied_clients, connection.dialect).values(row).on_conflict_do_nothing()
    if connection.execute(insert.returning(denied_clients.c.subject)).first() is not None:
        return events.changed(connection, denied, make_event)
    before = select(denied_clients).where(denied_clients.c.subject == denied.subject)
    return Change(denied_of(connection.execute(before).one()), None)


def allow(connection: Connection, subject: str, make_event: EventFactory[Denied]) -> Change[Denied | None]:
    """Allow a client again, in a transaction; the result is the former denial, None if there was none."""
    gone = delete(denied_clients).where(denied_clients.c.subject == subject).returning(denied_clients)
    row = connection.execute(gone).first()
    if row is None:
        return Change(None, None)
    return events.changed(connection, denied_of(row), make_event)
