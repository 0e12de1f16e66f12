"""Verifies of acts what leaves don't say: a decision is of a held act, in time, by a second principal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, and_, or_, select

from otahsm.ledger.act_values import LIFE, ActState
from otahsm.ledger.records import SLACK
from otahsm.ledger.schema import acts


def check_acts(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield each act that can't be as it is, and why."""
    for what, condition in _IMPOSSIBLE.items():
        for act_id in connection.execute(select(acts.c.id).where(condition)).scalars():
            yield f"act {act_id}", what


_decided: Final = acts.c.decision.is_not(None)
_confirmed: Final = acts.c.decision == ActState.CONFIRMED.value
_of_decision: Final = (
    acts.c.decided_at,
    acts.c.decided_by,
    acts.c.decided_policy_client,
    acts.c.done,
)
_IMPOSSIBLE: Final = {
    "is half decided: it was changed": or_(
        *(column.is_(None) != acts.c.decision.is_(None) for column in _of_decision),
        and_(acts.c.break_glass.is_not(None), acts.c.decision.is_(None)),
    ),
    "was decided, and was not held": and_(_decided, ~acts.c.held),
    "was decided before it was asked for": and_(_decided, acts.c.decided_at < acts.c.requested_at - SLACK),
    "was decided after it had lapsed": and_(_decided, acts.c.decided_at > acts.c.requested_at + LIFE + SLACK),
    "was confirmed by the client that asked for it": and_(
        _confirmed, acts.c.break_glass.is_(None), acts.c.decided_policy_client == acts.c.policy_client
    ),
}
