"""Step 3 of the cycle: writing intents that have no conflict with existing ones (I2, I3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

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
from otahsm.ledger.tree.log_entries import KINDS, Kind
from otahsm.ledger.tree.pending import note_entries, note_leaves, note_unproven, proven_among
from otahsm.ledger.write.existing_intents import ExistingIntents
from otahsm.pki.crls.building import Reason

_COLUMNS: Final = ("id", "place", "supersedes", *Intent._fields)
_NOTHING: Final[Mapping[int, int]] = {}
_COMPROMISED: Final[ColumnElement[str]] = literal_column(f"'{Reason.KEY_COMPROMISE.value}'")
_ATTEMPTS: Final = 10  # if replicas write the same devices at once: each attempt sees what others wrote


class _Superseding(NamedTuple):
    """The ids of a superseded intent and of the one that supersedes it, and when that was intended."""

    old: int
    new: int
    since: int


def write_intents(
    connection: Connection,
    slot: int,
    ids: Sequence[int],
    group: Sequence[Intent],
    renewals: Mapping[str, Renewal],
    now: int | None = None,
) -> list[JournalResult]:
    """Write the intents that have no conflict; return a result for each, in order.

    Usually there are no conflicts, and a single statement checks this while it writes them all. If there are,
    the written intents are deleted, and each one is checked.

    Args:
        connection: in a transaction.
        slot: the slot of the replica (see `replicas`).
        ids: a new id for each intent.
        group: at least one intent.
        renewals: when a device's certificate may be superseded, by profile.
        now: the time for renewals, in seconds since the Unix epoch; None for each intent's own.

    Raises:
        LedgerUnavailableError: other replicas were always faster.
    """
    # A statement may not see its own writes, so a key that occurs twice, for two devices, must be checked.
    if len({intent.spki_sha256 for intent in group}) == len(group):
        if _claim(connection, slot, ids, group) == len(group):
            return [Accepted(intent_id) for intent_id in ids]
        take_back(connection, ids)
    for _ in range(_ATTEMPTS):
        answers, fresh, superseded = _look(ids, ExistingIntents(connection, group, renewals, now), group)
        if not fresh:
            return answers
        which = {pair.new: pair.old for pair in superseded}
        if _supersede(connection, superseded) and (
            _claim(connection, slot, ids[: len(fresh)], fresh, which) == len(fresh)
        ):
            return answers
        take_back(connection, ids)
    raise LedgerUnavailableError("other replicas are issuing for the same devices, and were always faster")


def _look(
    ids: Sequence[int], taken: ExistingIntents, group: Sequence[Intent]
) -> tuple[list[JournalResult], list[Intent], list[_Superseding]]:
    """Check each intent of a group for conflicts.

    Returns:
        The results; the intents without conflicts; and which of them supersede another.
    """
    answers: list[JournalResult] = []
    fresh: list[Intent] = []
    superseded: list[_Superseding] = []
    for intent in group:
        answer = taken.answer(intent)
        if not isinstance(answer, JournalResult):
            new_id = ids[len(fresh)]
            if (old := answer.supersedes) is not None:
                superseded.append(_Superseding(old.intent_id, new_id, intent.intended_at))
            taken.reserve(intent)
            answer = Accepted(new_id, old)
            fresh.append(intent)
        answers.append(answer)
    return answers, fresh, superseded


def _supersede(connection: Connection, superseded: Sequence[_Superseding]) -> bool:
    """Mark certificates as superseded; return whether all of them were still live."""
    return all(connection.execute(_SUPERSEDE, pair._asdict()).rowcount for pair in sorted(superseded))


def _claim(
    connection: Connection,
    slot: int,
    ids: Sequence[int],
    group: Sequence[Intent],
    superseded: Mapping[int, int] = _NOTHING,
) -> int:
    """Write the intents that have no conflict; return the number written."""
    # In a fixed order, so that replicas that write the same devices rarely block each other.
    numbered = sorted(zip(ids, group, strict=True), key=lambda item: item[1].device_id)
    rows = [
        (intent_id, slot, superseded.get(intent_id), intent.serial.key, *intent[1:])
        for intent_id, intent in numbered
    ]
    return write_rows(connection, _claim_statement(connection.dialect), _COLUMNS, rows)


def take_back(connection: Connection, ids: Sequence[int]) -> None:
    """Delete intents that this transaction has written."""
    connection.execute(_TAKE_BACK, {"ids": ids})
    restore_superseded(connection, ids)


def settle(
    connection: Connection,
    claims: Iterable[tuple[int | None, JournalResult]],
    grant: Callable[[int, int], tuple[int, JournalResult]],
) -> list[JournalResult]:
    """Charge intents that were just written to limited resources; delete those that exceed a limit.

    Args:
        connection: in the transaction that wrote them.
        claims: for each intent the id of the resource, None for none, and its result so far.
        grant: called with an id and the number of claims; returns the number granted, and the result of the
            others.
    """
    answers = []
    positions: dict[int, list[int]] = {}
    for position, (which, answer) in enumerate(claims):
        answers.append(answer)
        if which is not None and isinstance(answer, Accepted):
            positions.setdefault(which, []).append(position)
    denied = []
    for which, claiming in sorted(positions.items()):  # in a fixed order, to avoid deadlocks
        granted, refusal = grant(which, len(claiming))
        for position in claiming[granted:]:
            denied.append(answers[position])
            answers[position] = refusal
    if denied:
        take_back(connection, [answer.intent_id for answer in denied if isinstance(answer, Accepted)])
    return answers


def note_renewals(connection: Connection, group: Sequence[Intent], answers: Sequence[JournalResult]) -> None:
    """Queue which certificates are superseded, as they were when that was decided.

    Otherwise who writes the database could hide a certificate while its device asks for another, and then
    make it look superseded.

    Args:
        connection: in the transaction that wrote the intents.
        group: the intents.
        answers: the result for each.
    """
    for intent, answer in zip(group, answers, strict=True):
        if not isinstance(answer, Accepted) or (old := answer.supersedes) is None:
            continue
        leaf: dict[str, list[Any]] = {
            "id": [answer.intent_id],
            "serial": [intent.serial.key],
            "supersedes": [old.intent_id],
            "device_id": [intent.device_id],
            "profile": [intent.profile],
            "superseded_serial": [old.serial],
            "superseded_spki_sha256": [old.spki_sha256],
            "superseded_not_after": [old.not_after],
        }
        try:
            (encoded,) = KINDS[Kind.RENEWAL].encode(leaf)
        except TypeError:  # SQLite stores values of any type
            note_unproven(connection, Kind.RENEWAL, [answer.intent_id])
        else:
            note_leaves(connection, Kind.RENEWAL, {answer.intent_id: encoded})


def restore_superseded(connection: Connection, ids: Sequence[int]) -> None:
    """Make the intents live again that were superseded by the given ones, which failed.

    One whose request id another device uses by now stays superseded; its device can be requested again. That
    is a leaf, as after a reset, only if a daemon wrote the one that failed to supersede it: whoever can write
    the database could have any certificate superseded by an intent of their own.
    """
    stay = {}
    for old in connection.execute(_SUPERSEDED, {"ids": ids}).all():  # one by one: request ids may be the same
        if not connection.execute(_RESTORE, {"old": old.id}).rowcount and old.supersedes == old.id:
            stay[old.superseded_by] = old.id
    proven = [stay[newer] for newer in sorted(proven_among(connection, Kind.RENEWAL, stay))]
    for intent_id in proven:
        connection.execute(_STAY, {"old": intent_id})
    note_entries(connection, Kind.SUPERSEDED, proven)


_TAKE_BACK: Final = delete(intents).where(Among(intents.c.id))
_newer = intents.alias("newer")
_SUPERSEDED: Final = (
    select(intents.c.id, intents.c.superseded_by, _newer.c.supersedes)
    .outerjoin(_newer, _newer.c.id == intents.c.superseded_by)
    .where(Among(intents.c.superseded_by))
    .order_by(intents.c.id.desc())
)
_namesake = intents.alias("namesake")
_taken: Final = (
    select(_namesake.c.id)
    .where(
        _namesake.c.request_id == intents.c.request_id,
        _namesake.c.client == intents.c.client,
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
_STAY: Final = update(intents).where(intents.c.id == bindparam("old")).values(superseded_by=None)
_SUPERSEDE: Final = (
    update(intents)
    .where(intents.c.id == bindparam("old"), intents.c.superseded_at.is_(None))
    .where(intents.c.void_reason.is_(None))
    .values(superseded_at=bindparam("since"), superseded_by=bindparam("new"))
)


def no_rival_of(row: FromClause) -> ColumnElement[bool]:
    """The condition that no other certificate, not even a superseded one, blocks the key of an intent.

    A key is blocked by a certificate of another device, or by one that was revoked for key compromise. The
    unique indexes cover devices and request ids, but not keys across all profiles. A count is looked up for
    each row: for an anti-join, PostgreSQL's planner would often scan the tables.
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
            rival.c.spki_sha256 == row.c.spki_sha256,
            (rival.c.device_id != row.c.device_id) | compromised.exists(),
            rival.c.void_reason.is_(None),
        )
        .correlate(row)
        .scalar_subquery()
    )
    return rivals == literal_column("0")


@lru_cache(maxsize=2)
def _claim_statement(dialect: Dialect) -> Insert:
    given = columns_given(intents, _COLUMNS, dialect)
    new = select(given).where(no_rival_of(given))
    return insert_into(intents, dialect).from_select(_COLUMNS, new).on_conflict_do_nothing()
