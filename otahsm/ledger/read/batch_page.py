"""Batches and their progress."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, func, select

from otahsm.ledger.records import Batch, BatchState, BatchTerms, Issue
from otahsm.ledger.schema import batches, certificates, intents, replicas, serial_octets
from otahsm.pki.serial import SerialNumber

_OPEN_AT_ONCE: Final = 30_000  # more than daemons ever have open


def find(connection: Connection, name: str) -> Batch | None:
    """Return a batch by its name; None if it does not exist."""
    row = connection.execute(select(batches).where(batches.c.name == name)).first()
    return None if row is None else batch_of(row)


def state(connection: Connection, name: str) -> BatchState | None:
    """Return a batch and its progress; None if it does not exist."""
    batch = find(connection, name)
    return None if batch is None else _states(connection, [batch])[0]


def page(connection: Connection, after: int, size: int, *, newest_first: bool = False) -> list[BatchState]:
    """Return batches and their progress, in order of creation or in reverse.

    Args:
        connection: any connection.
        after: the id of the last batch of the previous page; 0 for the first page.
        size: the most batches to return.
        newest_first: whether to return the latest first.
    """
    if newest_first:
        query = select(batches).order_by(batches.c.id.desc())
        query = query.where(batches.c.id < after) if after else query
    else:
        query = select(batches).order_by(batches.c.id).where(batches.c.id > after)
    return _states(connection, [batch_of(row) for row in connection.execute(query.limit(size))])


def _states(connection: Connection, found: Sequence[Batch]) -> list[BatchState]:
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


def _open_in_batches(connection: Connection) -> Counter[int]:
    """Count the open intents of each batch, among the ids that no replica has marked as closed."""
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


def batch_of(row: Row[Any]) -> Batch:
    """Return the batch of a row."""
    terms = BatchTerms(
        row.name, row.profile, row.device_count, row.scheme, row.deadline, tuple(json.loads(row.clients))
    )
    return Batch(row.id, terms, row.creator, row.created_at, row.closed_at, row.taken)


_ISSUES: Final = (
    select(serial_octets, certificates.c.recorded_at)
    .select_from(intents.join(certificates))
    .where(intents.c.batch_id == bindparam("which"))
)
