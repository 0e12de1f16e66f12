"""Batches: orders for N certificates. Intents reserve room in the transaction that writes them.

`taken` counts the intents of a batch that are not void. So no number of daemons, crashes or retries makes
more certificates than were ordered, and voided intents free their room.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from otahsm.errors import OtahsmError
from otahsm.ledger.act_values import ActKind, Requester
from otahsm.ledger.read import batch_page
from otahsm.ledger.read.batch_page import batch_of
from otahsm.ledger.records import (
    Batch,
    BatchRefusal,
    BatchState,
    BatchTerms,
    Change,
    EventFactory,
    Intent,
    JournalResult,
)
from otahsm.ledger.schema import batches
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.pending import note_entries
from otahsm.ledger.write import acts, events
from otahsm.ledger.write.journal import settle
from otahsm.templates import counted
from otahsm.tlog import canonical


def create(
    connection: Connection,
    terms: BatchTerms,
    creator: str,
    by: Requester | None,
    now: int,
    make_event: EventFactory[Batch],
) -> Change[Batch | OtahsmError]:
    """Write a batch; return it, or an existing one with that name, or an error if it is held.

    Args:
        connection: in a transaction with the lock of events.
        terms: its terms.
        creator: the client that creates it.
        by: who asks for it; None if it was confirmed.
        now: microseconds since the Unix epoch.
        make_event: makes the audit event if the batch is new.
    """
    if before := batch_page.find(connection, terms.name):
        return Change(before, None)
    if held := acts.bound(connection, ActKind.BATCH, by, canonical(terms._asdict()), now):
        return held
    values = terms._asdict() | {"clients": json.dumps(terms.clients)}
    row = values | {"creator": creator, "created_at": now, "taken": 0}
    new = connection.execute(insert(batches).values(row).returning(batches.c.id)).scalar_one()
    batch = batch_page.find(connection, terms.name)
    assert batch is not None  # noqa: S101 - it was written
    note_entries(connection, Kind.BATCH, [new])
    return events.changed(connection, batch, make_event)


def close(
    connection: Connection,
    name: str,
    by: Requester | None,
    now: int,
    make_event: EventFactory[BatchState],
) -> Change[BatchState | OtahsmError | None]:
    """Close a batch, so that no more room is reserved in it; the result is None if it does not exist.

    The number of its certificates comes from its row, minus open intents, so that no rows are counted.

    Args:
        connection: in a transaction with the lock of events.
        name: the batch.
        by: who asks for it; None if it was confirmed. If it is held, the result is an error.
        now: microseconds since the Unix epoch.
        make_event: makes the audit event if it was open.
    """
    state = batch_page.state(connection, name)
    if state is None or state.batch.closed_at is not None:
        return Change(state, None)
    if held := acts.bound(connection, ActKind.CLOSING, by, canonical({"name": name}), now):
        return held
    which = (batches.c.id == state.batch.id) & batches.c.closed_at.is_(None)
    connection.execute(update(batches).where(which).values(closed_at=now))
    note_entries(connection, Kind.BATCH_CLOSED, [state.batch.id])
    closed = batch_page.state(connection, name)
    assert closed is not None  # noqa: S101 - it was there
    return events.changed(connection, closed, make_event)


def reserve(
    connection: Connection, group: Sequence[Intent], answers: Sequence[JournalResult], now: int
) -> list[JournalResult]:
    """Reserve room for intents that were just written; delete those for which there is none.

    Args:
        connection: in the transaction that wrote them.
        group: the intents.
        answers: the results so far, one for each intent.
        now: seconds since the Unix epoch.
    """
    claims = zip((intent.batch_id for intent in group), answers, strict=True)
    return settle(
        connection, claims, lambda batch_id, count: _reserve(connection, batch_id, count, 1_000_000 * now)
    )


def give_back(connection: Connection, batch_ids: Iterable[int | None]) -> None:
    """Free the room of voided intents, by their batch ids; None for an intent in no batch."""
    counts = Counter(batch_id for batch_id in batch_ids if batch_id is not None)
    for batch_id, count in sorted(counts.items()):
        connection.execute(_ADD, {"which": batch_id, "more": -count})


def _reserve(connection: Connection, batch_id: int, count: int, now: int) -> tuple[int, BatchRefusal]:
    """Reserve room for up to `count` intents; return for how many there was room, and why not for more."""
    row = connection.execute(_LOCKED, {"which": batch_id}).one()
    batch = batch_of(row)
    if batch.closed_at is not None:
        return 0, BatchRefusal(full=False, message=f"the batch {batch.terms.name} is closed")
    if batch.terms.deadline is not None and now >= batch.terms.deadline:
        return 0, BatchRefusal(full=False, message=f"the deadline of the batch {batch.terms.name} has passed")
    granted = min(count, batch.terms.device_count - batch.taken)
    if granted:
        connection.execute(_ADD, {"which": batch_id, "more": granted})
    return granted, BatchRefusal(
        full=True,
        message=f"the batch {batch.terms.name} already has its"
        f" {counted(batch.terms.device_count, 'certificate')}",
    )


_LOCKED: Final = select(batches).where(batches.c.id == bindparam("which")).with_for_update()
_ADD: Final = (
    update(batches)
    .where(batches.c.id == bindparam("which"))
    .values(taken=batches.c.taken + bindparam("more"))
)
