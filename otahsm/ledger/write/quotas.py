"""Quotas across all daemons on the ledger: the usage of clients is counted when intents are written.

Intents over a quota are deleted in the same transaction, so that no number of daemons or concurrent calls can
exceed it. Voided intents are refunded.

A row whose day is in the future is from a clock that was ahead. It is corrected, with an audit event. An
admin can reset the day's count and the rate of a client, with another event. From them, `verify` learns up to
which intent the day does not follow from intents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, func, select, update

from otahsm.access import Use, come_back, corrected, day_of, given_back, own_part, reset, share_of, sum_of
from otahsm.ledger.db import dialects
from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.records import (
    Accepted,
    AuditEvent,
    Change,
    EventFactory,
    Intent,
    JournalResult,
    OverQuota,
    QuotaLimits,
    QuotaReset,
)
from otahsm.ledger.schema import intents, quotas
from otahsm.ledger.tree.derived import CORRECTED
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.pending import note_entries
from otahsm.ledger.write import events
from otahsm.ledger.write.journal import settle
from otahsm.tlog import canonical


def ids_of(connection: Connection, clients: Sequence[str]) -> list[int]:
    """Return the quota ids of clients, in order; create missing ones."""
    for client in sorted(clients):
        row = {"client": client} | Use()._asdict()
        insert = insert_into(quotas, connection.dialect).values(row).on_conflict_do_nothing()
        note_entries(
            connection, Kind.QUOTA, connection.execute(insert.returning(quotas.c.id)).scalars().all()
        )
    query = select(quotas.c.client, quotas.c.id).where(quotas.c.client.in_(clients))
    ids = {row.client: row.id for row in connection.execute(query)}
    return [ids[client] for client in clients]


def hold(
    connection: Connection,
    group: Sequence[Intent],
    answers: Sequence[JournalResult],
    limits: Mapping[int, QuotaLimits],
    now: int,
) -> list[JournalResult]:
    """Count intents that were just written; delete those that are over a quota.

    Args:
        connection: in the transaction that wrote them.
        group: the intents.
        answers: the results so far, one for each intent.
        limits: the limits of each quota, and under which other names the client was counted before.
        now: microseconds since the Unix epoch.
    """

    def grant(quota_id: int, count: int) -> tuple[int, OverQuota]:
        quotas, formerly = limits[quota_id]
        uses = {
            row: (name, _corrected(connection, row, name, use, now))
            for row, (name, use) in _locked(connection, quota_id, formerly).items()
        }
        client, own = uses.pop(quota_id)
        share = share_of(quotas, sum_of([own, *(use for _, use in uses.values())]), count, now)
        _write(connection, quota_id, own_part(share, own))
        why, retry_after = come_back(share.why, share.again_at, now)
        return share.granted, OverQuota(f"{client} has used its {why}", retry_after)

    return settle(connection, zip((intent.quota_id for intent in group), answers, strict=True), grant)


def give_back_denied(
    connection: Connection,
    group: Sequence[Intent],
    before: Sequence[JournalResult],
    after: Sequence[JournalResult],
) -> None:
    """Refund intents that were counted, and then refused for another reason."""
    give_back(
        connection,
        (
            (intent.quota_id, intent.intended_at)
            for intent, held, answer in zip(group, before, after, strict=True)
            if isinstance(held, Accepted) and not isinstance(answer, Accepted)
        ),
    )


def give_back(connection: Connection, uses: Iterable[tuple[int | None, int]]) -> None:
    """Refund intents: for each its quota, None for none, and when it was intended."""
    counts = Counter((quota_id, day_of(at)) for quota_id, at in uses if quota_id is not None)
    for (quota_id, day), count in sorted(counts.items()):
        _, use = _locked(connection, quota_id)[quota_id]
        _write(connection, quota_id, given_back(use, count, day))


def reset_uses(
    connection: Connection,
    client: str,
    formerly: Collection[str],
    now: int,
    make_event: EventFactory[QuotaReset],
) -> list[Change[QuotaReset]]:
    """Reset the day's count and the rate of a client, never its total; each row's change has its event.

    Args:
        connection: in a transaction.
        client: its name in the policy.
        formerly: the names that it had before, whose rows count with its own.
        now: microseconds since the Unix epoch.
        make_event: makes the event, which proves the reset to `verify`.
    """
    (own,) = ids_of(connection, [client])
    changes = []
    rows = _locked(connection, own, formerly)
    newest = connection.execute(select(func.max(intents.c.id))).scalar_one() or 0
    dialects.lock_events(connection)
    for quota_id, (name, use) in rows.items():
        _write(connection, quota_id, reset(use, now))
        changes.append(events.changed(connection, QuotaReset(quota_id, name, newest, use), make_event))
    return changes


def _corrected(connection: Connection, quota_id: int, client: str, use: Use, now: int) -> Use:
    """Correct a row if a clock was ahead; return its use."""
    right = corrected(use, now)
    if right != use:
        _write(connection, quota_id, right)
        newest = connection.execute(select(func.max(intents.c.id))).scalar_one()
        details = {"after": newest, "client": client, "quota": quota_id}
        dialects.lock_events(connection)
        events.write(connection, [AuditEvent(now, CORRECTED, "daemon", 1, canonical(details))])
    return right


def _locked(
    connection: Connection, quota_id: int, formerly: Collection[str] = ()
) -> dict[int, tuple[str, Use]]:
    """Lock a row, and those of former names; return names and uses by id."""
    which: dict[str, Any] = {"which": quota_id}
    if formerly:
        which["names"] = sorted(formerly)
    rows: Sequence[Row[Any]] = connection.execute(_LOCKED_ALL if formerly else _LOCKED, which).all()
    return {row.id: (row.client, Use(row.taken, row.day, row.day_taken, row.rate_full_at)) for row in rows}


def _write(connection: Connection, quota_id: int, use: Use) -> None:
    connection.execute(
        _SET, {"which": quota_id, **{f"new_{name}": use for name, use in use._asdict().items()}}
    )


_LOCKED: Final = select(quotas).where(quotas.c.id == bindparam("which")).with_for_update()
_LOCKED_ALL: Final = (
    select(quotas)
    .where((quotas.c.id == bindparam("which")) | quotas.c.client.in_(bindparam("names", expanding=True)))
    .order_by(quotas.c.id)  # in a fixed order, to avoid deadlocks
    .with_for_update()
)
_SET: Final = (
    update(quotas)
    .where(quotas.c.id == bindparam("which"))
    .values({name: bindparam(f"new_{name}") for name in Use._fields})
)
