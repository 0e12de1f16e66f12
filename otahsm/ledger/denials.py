"""Clients that an operator has cut off. Who did so, and who let them in again, is an event."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from otahsm.access import Denied
from otahsm.ledger import events
from otahsm.ledger.records import AuditEvent
from otahsm.ledger.schema import denied_clients


def deny(connection: Connection, denied: Denied, event: AuditEvent) -> bool:
    """Cut a client off; return False if it was before. In a transaction."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {
        "subject": denied.subject,
        "reason": denied.reason,
        "client": denied.client,
        "denied_at": denied.at,
    }
    written = make(denied_clients).values(row).on_conflict_do_nothing().returning(denied_clients.c.subject)
    new = connection.execute(written).first() is not None
    if new:
        events.write(connection, [event])
    return new


def allow(connection: Connection, subject: str, event: AuditEvent) -> bool:
    """Let a client in again; return False if it was not cut off. In a transaction."""
    gone = delete(denied_clients).where(denied_clients.c.subject == subject)
    found = connection.execute(gone.returning(denied_clients.c.subject)).first() is not None
    if found:
        events.write(connection, [event])
    return found


def all_denied(connection: Connection) -> list[Denied]:
    """Return everybody who is cut off, in the order in which that happened."""
    query = select(denied_clients).order_by(denied_clients.c.denied_at, denied_clients.c.subject)
    return [Denied(row.subject, row.reason, row.client, row.denied_at) for row in connection.execute(query)]
