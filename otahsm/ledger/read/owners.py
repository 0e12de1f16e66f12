"""Whose a row is, as an SQL condition."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, func, or_

from otahsm.access import Below, OwnerFilter


def is_identity_of(column: ColumnElement[str], owner: OwnerFilter) -> ColumnElement[bool]:
    """The condition that a column has one of a client's identities."""
    return or_(column.in_(sorted(owner.identities)), *(_is_below(column, each) for each in owner.below))


def _is_below(column: ColumnElement[str], below: Below) -> ColumnElement[bool]:
    return and_(
        column != below.start,
        _starts(column, below.start),
        column.not_in(sorted(below.others)),
        *(~_starts(column, start) for start in sorted(below.others_start)),
    )


def _starts(column: ColumnElement[str], start: str) -> ColumnElement[bool]:
    return func.substr(column, 1, len(start)) == start  # LIKE ignores case
