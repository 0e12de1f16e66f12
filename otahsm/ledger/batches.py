"""Batches: so many certificates, by then. Intents take places in the transaction that writes them.

`taken` counts the intents of a batch that are not void. So no number of daemons, crashes or retries makes
more certificates than were ordered, and what came to nothing gives its place back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from otahsm.ledger import events
from otahsm.ledger.journal import take_back
from otahsm.ledger.records import (
    Accepted,
    Answer,
    Batch,
    BatchState,
    BatchTerms,
    Change,
    Intent,
    Issue,
    NoPlace,
    Tell,
)
from otahsm.ledger.schema import batches, certificates, intents, replicas
from otahsm.pki import SerialNumber

_OPEN_AT_ONCE: Final = 30_000  # more than daemons have under way


def create(
    connection: Connection, terms: BatchTerms, creator: str, now: int, tell: Tell[Batch]
) -> Change[Batch]:
    """Write a batch; return it, or the one of the same name that there is.

    Args:
        connection: in a transaction.
        terms: what is ordered.
        creator: who orders it.
        now: microseconds since the Unix epoch.
        tell: makes the event, if it is new.
    """
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = terms._asdict() | {"clients": json.dumps(terms.clients)}
    row = values | {"creator": creator, "created_at": now, "taken": 0}
    new = connection.execute(
        make(batches).values(row).on_conflict_do_nothing().returning(batches.c.id)
    ).first()
    batch = find(connection, terms.name)
    assert batch is not None  # noqa: S101 - it was written, or stood in the way
    return Change(batch, None) if new is None else events.changed(connection, batch, tell)


def close(connection: Connection, name: str, now: int, tell: Tell[BatchState]) -> Change[BatchState | None]:
    """Let nobody take places in a batch any more; the result is None if there is none."""
    which = (batches.c.name == name) & batches.c.closed_at.is_(None)
    closed = connection.execute(
        update(batches).where(which).values(closed_at=now).returning(batches.c.id)
    ).first()
    state = next(iter(states(connection, 0, 1, name)), None)
    if closed is None or state is None:
        return Change(state, None)
    return events.changed(connection, state, tell)


def find(connection: Connection, name: str) -> Batch | None:
    """Return a batch by its name; None if there is none."""
    row = connection.execute(select(batches).where(batches.c.name == name)).first()
    return None if row is None else _batch(row)


def states(connection: Connection, after: int, size: int, name: str = "") -> list[BatchState]:
    """Return batches and how far they are, in the order of their creation.

    Args:
        connection: any.
        after: those whose id is greater.
        size: at most so many.
        name: the one of this name alone; empty for all.
    """
    query = select(batches).where(batches.c.id > after).order_by(batches.c.id).limit(size)
    if name:
        query = query.where(batches.c.name == name)
    found = [_batch(row) for row in connection.execute(query)]
    still_open = _open_in_batches(connection) if found else Counter()
    return [
        BatchState(
            batch,
            batch.taken - still_open[batch.id],
            _issue(connection, _ISSUES.order_by(intents.c.serial), batch.id),
            _issue(connection, _ISSUES.order_by(intents.c.serial.desc()), batch.id),
        )
        for batch in found
    ]


def hold_places(
    connection: Connection, batch: Sequence[Intent], answers: Sequence[Answer], now: int
) -> list[Answer]:
    """Take places for intents that were just written; take back those for which there is none.

    Args:
        connection: in the transaction that wrote them.
        batch: what was asked for.
        answers: one for each.
        now: seconds since the Unix epoch.
    """
    wanting: dict[int, list[int]] = {}
    for position, (intent, answer) in enumerate(zip(batch, answers, strict=True)):
        if intent.batch_id is not None and isinstance(answer, Accepted):
            wanting.setdefault(intent.batch_id, []).append(position)
    settled = list(answers)
    denied = []
    for batch_id, positions in sorted(wanting.items()):  # in one order, whoever takes: none waits in a circle
        granted, why = _take(connection, batch_id, len(positions), 1_000_000 * now)
        for position in positions[granted:]:
            answer = settled[position]
            assert isinstance(answer, Accepted)  # noqa: S101 - see above
            denied.append(answer.intent_id)
            settled[position] = why
    if denied:
        take_back(connection, denied)
    return settled


def give_back(connection: Connection, batch_ids: Iterable[int | None]) -> None:
    """Give back the places of intents that were voided; None: it had none."""
    counts = Counter(batch_id for batch_id in batch_ids if batch_id is not None)
    for batch_id, count in sorted(counts.items()):
        connection.execute(_TAKE, {"which": batch_id, "more": -count})


def _take(connection: Connection, batch_id: int, wanted: int, now: int) -> tuple[int, NoPlace]:
    """Take up to so many places; return how many there were, and why there are no more."""
    row = connection.execute(_LOCKED, {"which": batch_id}).one()
    batch = _batch(row)
    if batch.closed_at is not None:
        return 0, NoPlace(full=False, message=f"the batch {batch.terms.name} is closed")
    if batch.terms.deadline is not None and now >= batch.terms.deadline:
        return 0, NoPlace(full=False, message=f"the deadline of the batch {batch.terms.name} is over")
    granted = min(wanted, batch.terms.device_count - batch.taken)
    if granted:
        connection.execute(_TAKE, {"which": batch_id, "more": granted})
    return granted, NoPlace(
        full=True, message=f"the batch {batch.terms.name} has its {batch.terms.device_count} certificates"
    )


def _open_in_batches(connection: Connection) -> Counter[int]:
    """Count the open intents of each batch; they are where every place has said that some may be open."""
    below = connection.execute(select(func.min(replicas.c.closed_below))).scalar() or 0
    query = (
        select(intents.c.batch_id)
        .select_from(intents.outerjoin(certificates))
        .where(intents.c.id >= below, intents.c.batch_id.is_not(None), intents.c.void_reason.is_(None))
        .where(certificates.c.intent_id.is_(None))
        .limit(_OPEN_AT_ONCE)
    )
    return Counter(connection.execute(query).scalars())


def _issue(connection: Connection, query: Select[Any], batch_id: int) -> Issue | None:
    row = connection.execute(query.limit(1), {"which": batch_id}).first()
    return None if row is None else Issue(SerialNumber.from_key(row.serial), row.recorded_at)


def _batch(row: Row[Any]) -> Batch:
    terms = BatchTerms(
        row.name, row.profile, row.device_count, row.scheme, row.deadline, tuple(json.loads(row.clients))
    )
    return Batch(row.id, terms, row.creator, row.created_at, row.closed_at, row.taken)


_LOCKED: Final = select(batches).where(batches.c.id == bindparam("which")).with_for_update()
_TAKE: Final = (
    update(batches)
    .where(batches.c.id == bindparam("which"))
    .values(taken=batches.c.taken + bindparam("more"))
)
_ISSUES: Final = (
    select(intents.c.serial, certificates.c.recorded_at)
    .select_from(intents.join(certificates))
    .where(intents.c.batch_id == bindparam("which"))
)
