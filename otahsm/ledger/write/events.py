"""Events: what happened, other than to certificates. Each becomes a leaf of the tree, like a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Connection, insert

from otahsm.ledger.records import AuditEvent, Change, Tell
from otahsm.ledger.schema import events
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.sequencer import note_entries

_Result = TypeVar("_Result")


def write(connection: Connection, written: Sequence[AuditEvent]) -> None:
    """Write events, in a transaction."""
    ids = []
    for event in written:
        row = event._asdict()
        del row["id"]
        ids.append(connection.execute(insert(events).values(row).returning(events.c.id)).scalar_one())
    note_entries(connection, Kind.EVENT, ids)


def changed(connection: Connection, result: _Result, tell: Tell[_Result]) -> Change[_Result]:
    """Write the event that tells of a change, in the transaction that made it."""
    event = tell(result)
    write(connection, [event])
    return Change(result, event)
