"""Step 3 of the cycle: what stands against an intent, and if nothing does, writing it (I2, I3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    FromClause,
    Insert,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    update,
)

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.db.dialects import Among, columns_given, insert_into, write_rows
from otahsm.ledger.records import Accepted, Intent, JournalResult, Renewal
from otahsm.ledger.schema import intents, revocations
from otahsm.ledger.write.existing_intents import ExistingIntents
from otahsm.pki import Reason

_COLUMNS: Final = ("id", "place", *Intent._fields)
_COMPROMISED: Final[ColumnElement[str]] = literal_column(f"'{Reason.KEY_COMPROMISE.value}'")
_ATTEMPTS: Final = 10  # replicas that ask for the same devices at once: each look shows what others wrote


def write_intents(
    connection: Connection,
    slot: int,
    ids: Sequence[int],
    batch: Sequence[Intent],
    renewals: Mapping[str, Renewal],
    now: int | None = None,
) -> list[JournalResult]:
    """Write the intents that nothing stands against; answer each one, in order.

    Mostly nothing stands against any of them, and one statement finds that out while it writes them. If
    something does, what went in is taken back, and each one is looked at.

    Args:
        connection: in a transaction.
        slot: the replica's (see `replicas`).
        ids: one for each intent; none was ever used before.
        batch: at least one.
        renewals: by profile, when a device's certificate may be superseded.
        now: for that, in seconds; None: when each was intended.

    Raises:
        LedgerUnavailableError: other replicas were always faster.
    """
    # A statement may not see what it writes itself: a key that comes twice, for two devices, is looked at.
    if len({intent.spki_sha256 for intent in batch}) == len(batch):
        if _claim(connection, slot, ids, batch) == len(batch):
            return [Accepted(intent_id) for intent_id in ids]
        take_back(connection, ids)
    for _ in range(_ATTEMPTS):
        answers, fresh, superseded = _look(ids, ExistingIntents(connection, batch, renewals, now), batch)
        if not fresh:
            return answers
        if _supersede(connection, superseded, batch[0].intended_at) and (
            _claim(connection, slot, ids[: len(fresh)], fresh) == len(fresh)
        ):
            return answers
        take_back(connection, ids)
    raise LedgerUnavailableError("other replicas ask for the same devices, and were always faster")


def _look(
    ids: Sequence[int], taken: ExistingIntents, batch: Sequence[Intent]
) -> tuple[list[JournalResult], list[Intent], dict[int, int]]:
    """Answer each intent of a batch by what is live.

    Returns:
        The answers; the intents that nothing stands against; and what those supersede: new ids by old ones.
    """
    answers: list[JournalResult] = []
    fresh: list[Intent] = []
    superseded: dict[int, int] = {}
    for intent in batch:
        answer = taken.answer(intent)
        if not isinstance(answer, JournalResult):
            new_id = ids[len(fresh)]
            if answer.supersedes is not None:
                superseded[answer.supersedes] = new_id
            taken.reserve(intent)
            answer = Accepted(new_id)
            fresh.append(intent)
        answers.append(answer)
    return answers, fresh, superseded


def _supersede(connection: Connection, superseded: Mapping[int, int], now: int) -> bool:
    """Let certificates make way for new ones; tell whether all of them were still live."""
    if not superseded:
        return True
    pairs = [{"old": old, "new": new, "now": now} for old, new in sorted(superseded.items())]
    return all(connection.execute(_SUPERSEDE, pair).rowcount for pair in pairs)


def _claim(connection: Connection, slot: int, ids: Sequence[int], batch: Sequence[Intent]) -> int:
    """Write intents, but not what something stands against; say how many were written."""
    # In one order, whoever writes: so replicas that write the same devices seldom wait for each other.
    numbered = sorted(zip(ids, batch, strict=True), key=lambda item: item[1].device_id)
    rows = [(intent_id, slot, intent.serial.key, *intent[1:]) for intent_id, intent in numbered]
    return write_rows(connection, _claim_statement(connection.dialect), _COLUMNS, rows)


def take_back(connection: Connection, ids: Sequence[int]) -> None:
    """Take back intents that this transaction has written."""
    connection.execute(_TAKE_BACK, {"ids": ids})
    restore_superseded(connection, ids)


def settle(
    connection: Connection,
    wanted: Iterable[tuple[int | None, JournalResult]],
    grant: Callable[[int, int], tuple[int, JournalResult]],
) -> list[JournalResult]:
    """Have intents that were just written share what there is of something; take back those with no share.

    Args:
        connection: in the transaction that wrote them.
        wanted: for each intent the id of what it wants a share of, None for nothing; and its answer so far.
        grant: called with an id and how many want a share; returns how many get one, and what the others
            are answered.
    """
    answers = []
    positions: dict[int, list[int]] = {}
    for position, (which, answer) in enumerate(wanted):
        answers.append(answer)
        if which is not None and isinstance(answer, Accepted):
            positions.setdefault(which, []).append(position)
    denied = []
    for which, wanting in sorted(positions.items()):  # in one order, whoever takes: none waits in a circle
        granted, refusal = grant(which, len(wanting))
        for position in wanting[granted:]:
            denied.append(answers[position])
            answers[position] = refusal
    if denied:
        take_back(connection, [answer.intent_id for answer in denied if isinstance(answer, Accepted)])
    return answers


def restore_superseded(connection: Connection, ids: Sequence[int]) -> None:
    """Make live again what intents superseded that come to nothing.

    One whose request id another device took meanwhile stays superseded: its device may ask again.
    """
    superseded = connection.execute(_SUPERSEDED, {"ids": ids}).scalars().all()
    for old in superseded:  # one by one: a request id may have been that of several
        connection.execute(_RESTORE, {"old": old})


_TAKE_BACK: Final = delete(intents).where(Among(intents.c.id))
_SUPERSEDED: Final = select(intents.c.id).where(Among(intents.c.superseded_by)).order_by(intents.c.id.desc())
_namesake = intents.alias("namesake")
_taken: Final = (
    select(_namesake.c.id)
    .where(
        _namesake.c.request_id == intents.c.request_id,
        _namesake.c.request_id != literal_column("''"),
        _namesake.c.void_reason.is_(None),
        _namesake.c.superseded_at.is_(None),
    )
    .exists()
)
_RESTORE: Final = (
    update(intents)
    .where(intents.c.id == bindparam("old"), ~_taken)
    .values(superseded_at=None, superseded_by=None)
)
_SUPERSEDE: Final = (
    update(intents)
    .where(intents.c.id == bindparam("old"), intents.c.superseded_at.is_(None))
    .where(intents.c.void_reason.is_(None))
    .values(superseded_at=bindparam("now"), superseded_by=bindparam("new"))
)


def no_rival_of(asked: FromClause) -> ColumnElement[bool]:
    """Say that no certificate keeps the key of a row of intents from being certified; superseded ones count.

    That is a certificate of another device, or one that was revoked because the key is compromised. The
    unique indexes refuse a device or a request that is taken; what holds for a key under all profiles no
    index says. A count is looked up for each row, however the tables look; with an anti-join, PostgreSQL's
    planner would often read all of them.
    """
    rival = intents.alias("rival")
    compromised = (
        select(revocations.c.intent_id)
        .where(revocations.c.intent_id == rival.c.id, revocations.c.reason == _COMPROMISED)
        .correlate(rival)
    )
    rivals = (
        select(func.count())
        .select_from(rival)
        .where(
            rival.c.spki_sha256 == asked.c.spki_sha256,
            (rival.c.device_id != asked.c.device_id) | compromised.exists(),
            rival.c.void_reason.is_(None),
        )
        .correlate(asked)
        .scalar_subquery()
    )
    return rivals == literal_column("0")


@lru_cache(maxsize=2)
def _claim_statement(dialect: Dialect) -> Insert:
    given = columns_given(intents, _COLUMNS, dialect)
    new = select(given).where(no_rival_of(given))
    return insert_into(intents, dialect).from_select(_COLUMNS, new).on_conflict_do_nothing()
