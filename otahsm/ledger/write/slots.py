"""The slots of replicas, and the ids from which on their intents may be open.

Only PostgreSQL has more than one slot; see `otahsm.ledger.db.postgres`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, text, update

from otahsm.ledger.db.dialects import LOCK_NAMESPACE, insert_into
from otahsm.ledger.schema import intents, replicas
from otahsm.ledger.write.outcomes import is_open, void_where

_LEFT: Final = "the daemon stopped before the certificate was recorded"
_FAR: Final = 1_000  # ids; fewer are quickly scanned


def enter(connection: Connection, slot: int) -> None:
    """Create the row of a slot, if it doesn't exist."""
    insert_slot = insert_into(replicas, connection.dialect).values(place=slot, closed_below=0)
    connection.execute(insert_slot.on_conflict_do_nothing())


def anything_left(connection: Connection, own: int) -> bool:
    """Return whether dead replicas left any intent open. If not, note that so far all are closed."""
    left = False
    for slot in _left_slots(connection, own):
        if connection.execute(select(intents.c.id).where(_left_open(slot)).limit(1)).first():
            left = True
        else:
            note_all_closed(connection, slot)
    return left


def clear_left_slots(connection: Connection, own: int, now: int, *, also_own: bool) -> int:
    """Void the open intents of dead replicas; return their number.

    Args:
        connection: in a transaction that started with `dialects.begin` and `closing`.
        own: the slot of this replica.
        now: microseconds since the Unix epoch.
        also_own: whether to clear this slot too, which this replica has just taken.
    """
    left = [*_left_slots(connection, own), *([own] if also_own else [])]
    highest = _highest(connection)
    voided = 0
    for slot in left:
        voided += void_where(connection, _left_open(slot), _LEFT, now)
        note_closed(connection, slot, highest + 1)
    return voided


def open_intents(connection: Connection, slot: int) -> list[int]:
    """Return the ids of the intents of a slot that are open."""
    return list(connection.execute(select(intents.c.id).where(_left_open(slot))).scalars())


def is_far_behind(connection: Connection, slot: int) -> bool:
    """Return whether many intents were written since this replica last noted that its own are closed."""
    closed = select(replicas.c.closed_below).where(replicas.c.place == slot)
    return _highest(connection) - (connection.execute(closed).scalar() or 0) > _FAR


def note_all_closed(connection: Connection, slot: int) -> None:
    """Note that no intent of a slot is open. Its future intents must have ids above all existing ones."""
    note_closed(connection, slot, _highest(connection) + 1)


def note_closed(connection: Connection, slot: int, below: int) -> None:
    """Note that no intent of a slot with an id smaller than `below` is open."""
    connection.execute(_PROGRESS, {"at": slot, "below": below})


def touch(connection: Connection, slot: int) -> None:
    """Write without changing anything, to check whether writes work."""
    same = update(replicas).where(replicas.c.place == slot).values(closed_below=replicas.c.closed_below)
    connection.execute(same)


def _highest(connection: Connection) -> int:
    highest: int | None = connection.execute(select(func.max(intents.c.id))).scalar()
    return highest or 0


def _left_slots(connection: Connection, own: int) -> list[int]:
    """Return the slots that no replica holds."""
    others = select(replicas.c.place).where(replicas.c.place != own).order_by(replicas.c.place)
    slots: Sequence[int] = connection.execute(others).scalars().all()
    return [slot for slot in slots if connection.execute(_IS_LEFT, {"slot": slot}).scalar()]


def _left_open(slot: int) -> ColumnElement[bool]:
    below = select(replicas.c.closed_below).where(replicas.c.place == slot).scalar_subquery()
    return (intents.c.id >= below) & (intents.c.place == slot) & is_open


# The holder of a slot has a session lock on its number; see `otahsm.ledger.db.postgres`.
_IS_LEFT: Final = text(f"SELECT pg_try_advisory_xact_lock({LOCK_NAMESPACE}, :slot)")
_PROGRESS: Final = (
    update(replicas).where(replicas.c.place == bindparam("at")).values(closed_below=bindparam("below"))
)
