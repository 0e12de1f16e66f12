"""Denying clients and allowing them again. Both write an audit event."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, select

from otahsm.access import Denied
from otahsm.errors import OtahsmError
from otahsm.ledger.act_values import ActKind, Requester, ToDeny
from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.read.clients import denied_of
from otahsm.ledger.records import Change, EventFactory
from otahsm.ledger.schema import denied_clients
from otahsm.ledger.tree.derived import denial_events, says
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.pending import proven_among
from otahsm.ledger.write import acts, events
from otahsm.system.spool import storable
from otahsm.tlog import canonical


def deny(
    connection: Connection,
    denied: Denied,
    by: Requester | None,
    now: int,
    make_event: EventFactory[Denied],
) -> Change[Denied | OtahsmError]:
    """Deny a client; the result is the denial, or the existing one, or an error if it is held.

    One that the audit log does not have is replaced: somebody wrote it into the database, to take it away
    again when this denial was said to be made.

    Args:
        connection: in a transaction with the lock of events.
        denied: the denial.
        by: who asks for it; None if it was confirmed.
        now: microseconds since the Unix epoch.
        make_event: makes the audit event if it is new.
    """
    mine = denied_clients.c.subject == denied.subject
    before = connection.execute(select(denied_clients).where(mine)).first()
    if before is not None and _is_in_audit_log(connection, before):
        return Change(denied_of(before), None)
    asked = canonical(ToDeny(denied.subject, denied.reason)._asdict())
    if held := acts.bound(connection, ActKind.DENIAL, by, asked, now):
        return held
    row = {
        "subject": denied.subject,
        "reason": denied.reason,
        "client": denied.client,
        "denied_at": denied.at,
    }
    put = insert_into(denied_clients, connection.dialect).values(row)
    connection.execute(put.on_conflict_do_update(index_elements=[denied_clients.c.subject], set_=row))
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
