"""Audit events. Each becomes a leaf of the tree, like a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Connection, insert, select

from otahsm.ledger.records import AuditEvent, Change, EventFactory
from otahsm.ledger.schema import events
from otahsm.ledger.tree.log_entries import KINDS, Kind
from otahsm.ledger.tree.pending import note_leaves

_Result = TypeVar("_Result")


def write(connection: Connection, written: Sequence[AuditEvent]) -> None:
    """Write events, in a transaction."""
    numbered = []
    for event in written:
        row = event._asdict()
        del row["id"]
        new = connection.execute(insert(events).values(row).returning(events.c.id)).scalar_one()
        numbered.append(event._replace(id=new))
    if numbered:
        columns = dict(zip(AuditEvent._fields, zip(*numbered, strict=True), strict=True))
        leaves = KINDS[Kind.EVENT].encode(columns)
        note_leaves(connection, Kind.EVENT, dict(zip(columns["id"], leaves, strict=True)))


def write_new(connection: Connection, written: Sequence[AuditEvent]) -> None:
    """Write the events that don't exist yet, in a transaction.

    Events are equal if all their attributes are, including the time in microseconds. So a writer that doesn't
    know whether an event was written, after a crash or a lost answer, can write it again.
    """
    write(connection, [event for event in dict.fromkeys(written) if not _is_there(connection, event)])


def _is_there(connection: Connection, event: AuditEvent) -> bool:
    row = event._asdict()
    del row["id"]
    same = select(events.c.id).filter_by(**row).limit(1)  # by the index of times
    return connection.execute(same).first() is not None


def changed(connection: Connection, result: _Result, make_event: EventFactory[_Result]) -> Change[_Result]:
    """Write the audit event of a change, in its transaction."""
    event = make_event(result)
    write(connection, [event])
    return Change(result, event)
