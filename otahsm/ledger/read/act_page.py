"""Held acts, page by page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, select

from otahsm.ledger.act_values import LIFE, Act
from otahsm.ledger.records import SLACK
from otahsm.ledger.schema import acts
from otahsm.ledger.tree.log_entries import KINDS, Kind
from otahsm.tlog import leaf_hash

_MAX_NUMBER: Final = 250_000_000_000_000_000  # microseconds: a day of the year 9892


def find(connection: Connection, act_id: int) -> Act | None:
    """Return a held act; None if there is none."""
    found = _acts(connection, acts.c.id == act_id)
    return found[0] if found else None


def among(connection: Connection, act_ids: Collection[int]) -> list[Act]:
    """Return those of some held acts that exist, in order of their ids."""
    return _acts(connection, acts.c.id.in_(act_ids))


def page(connection: Connection, after: int, size: int, *, open_at: int | None = None) -> list[Act]:
    """Return held acts in the order of their ids.

    Args:
        connection: any connection.
        after: the id of the last act of the previous page; 0 for the first page.
        size: the most acts to return.
        open_at: only those that could be decided at this time (microseconds); None for all.
    """
    conditions = [acts.c.id > after]
    if open_at is not None:
        conditions += [acts.c.decision.is_(None), *recent(open_at)]
    return _acts(connection, *conditions, size=size)


def recent(now: int, slack: int = SLACK) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Select what was asked for in the last 24 hours, by clocks at most `slack` ahead (microseconds)."""
    return acts.c.requested_at > now - LIFE, acts.c.requested_at <= now + slack


def _acts(connection: Connection, *conditions: ColumnElement[bool], size: int | None = None) -> list[Act]:
    query = select(acts).where(acts.c.held, *conditions).order_by(acts.c.id).limit(size)
    rows = connection.execute(query).all()
    digests = _digests(connection, [row.id for row in rows])
    return [_act(row, digests.get(row.id, b"")) for row in rows]


def _act(row: Row[Any], digest: bytes) -> Act:
    """Return the act of a row. SQLite stores values of any type: one such row must not hide the others."""
    return Act(
        row.id,
        _text(row.act),
        _text(row.client),
        _text(row.policy_client),
        row.certificate_sha256,
        row.spki_sha256,
        _number(row.requested_at),
        _number(row.size),
        _text(row.payload),
        None if row.decision is None else _text(row.decision),
        None if row.decided_at is None else _number(row.decided_at),
        None if row.decided_by is None else _text(row.decided_by),
        None if row.decided_policy_client is None else _text(row.decided_policy_client),
        None if row.done is None else _number(row.done),
        None if row.break_glass is None else _text(row.break_glass),
        digest,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= _MAX_NUMBER else 0


def _digests(connection: Connection, ids: Sequence[int]) -> dict[int, bytes]:
    if not ids:
        return {}
    try:
        return {key: leaf_hash(leaf) for key, leaf in KINDS[Kind.ACT].read(connection, ids).items()}
    except (TypeError, ValueError):  # SQLite stores values of any type: what somebody wrote has no leaf
        half = len(ids) // 2
        return _digests(connection, ids[:half]) | _digests(connection, ids[half:]) if half else {}
