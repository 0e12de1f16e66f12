"""Denying clients and allowing them again. Both write an audit event."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from otahsm.access import Denied
from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.read.denied import denied_of
from otahsm.ledger.records import Change, EventFactory
from otahsm.ledger.schema import denied_clients
from otahsm.ledger.tree.derived import denial_events, says
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.pending import proven_among
from otahsm.ledger.write import events
from otahsm.system.spool import storable


def deny(connection: Connection, denied: Denied, make_event: EventFactory[Denied]) -> Change[Denied]:
    """Deny a client, in a transaction; the result is the denial, or the existing one.

    One that the audit log does not have is replaced: somebody wrote it into the database, to take it away
    again when this denial was said to be made.
    """
    row = {
        "subject": denied.subject,
        "reason": denied.reason,
        "client": denied.client,
        "denied_at": denied.at,
    }
    insert = insert_into(denied_clients, connection.dialect).values(row).on_conflict_do_nothing()
    if connection.execute(insert.returning(denied_clients.c.subject)).first() is not None:
        return events.changed(connection, denied, make_event)
    mine = denied_clients.c.subject == denied.subject
    before = connection.execute(select(denied_clients).where(mine)).one()
    if _is_in_audit_log(connection, before):
        return Change(denied_of(before), None)
    connection.execute(update(denied_clients).where(mine).values(row))
    return events.changed(connection, denied, make_event)


def allow(connection: Connection, subject: str, make_event: EventFactory[Denied]) -> Change[Denied | None]:
    """Allow a client again, in a transaction; the result is the former denial, None if there was none."""
    gone = delete(denied_clients).where(denied_clients.c.subject == subject).returning(denied_clients)
    row = connection.execute(gone).first()
    if row is None:
        return Change(None, None)
    return events.changed(connection, denied_of(row), make_event)


def _is_in_audit_log(connection: Connection, row: Row[Any]) -> bool:
    event = denial_events(connection).get(storable(row.subject))
    return (
        event is not None
        and says(event, row)
        and event.id in proven_among(connection, Kind.EVENT, [event.id])
    )
