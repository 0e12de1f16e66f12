"""How many certificates a batch and a quota have: a count of intents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, cast, func, or_, select

from otahsm.ledger.records import SLACK
from otahsm.ledger.schema import batches, events, intents, quotas

CORRECTED: Final = "quota.corrected"
RESET: Final = "quota.reset"

_DAY: Final = 24 * 3600 * 1_000_000


def check_batches(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield batches that count otherwise than their intents, and intents that are in a wrong batch."""
    taken = select(func.count()).where(intents.c.batch_id == batches.c.id, intents.c.void_reason.is_(None))
    query = select(
        batches.c.id,
        batches.c.taken,
        batches.c.device_count,
        taken.scalar_subquery().label("found"),
    )
    for row in connection.execute(query).all():
        where = f"batch {row.id}"
        if row.taken != row.found:
            yield where, f"counts {row.taken!a} certificates, and has {row.found} intents"
        # What was set back for a moment, and then again to what it was.
        if not isinstance(row.device_count, int) or row.found > row.device_count:
            yield where, f"is an order for {row.device_count!a} certificates, and has {row.found} intents"
    for other in connection.execute(_OF_ANOTHER_PROFILE):
        yield f"intent {other.id}", f"is in the batch {other.batch_id}, which is for another profile"
    for intent_id in connection.execute(_IN_NO_BATCH).scalars():
        yield f"intent {intent_id}", "is in a batch that does not exist"
    for other in connection.execute(_TOO_LATE):
        yield f"intent {other.id}", f"was written when the batch {other.batch_id} was closed or over"


class _Told(NamedTuple):
    """What audit events say of a quota: up to which intent, and when it was last reset; None for never."""

    after: int = 0
    reset_at: int | None = None


def _told_of_quotas(connection: Connection) -> dict[int, _Told]:
    """Return up to which intent the day of a quota follows from audit events instead, by the quota's id."""
    told: dict[int, _Told] = {}
    which = select(events).where(events.c.name.in_((CORRECTED, RESET))).order_by(events.c.id)
    for event in connection.execute(which):
        try:
            said = json.loads(event.details)
            quota_id, after = int(said["quota"]), int(said["after"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # it was changed: its leaf says so
        before = told.get(quota_id, _Told())
        reset_at = event.happened_at if event.name == RESET else before.reset_at
        told[quota_id] = _Told(max(after, before.after), reset_at)
    return told


def check_quotas(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield quotas that count otherwise than their intents."""
    rows = connection.execute(_BY_DAY)
    told = _told_of_quotas(connection)
    found = {key: list(days) for key, days in groupby(rows, lambda row: row.quota_id)}
    for row in connection.execute(select(quotas)):
        days = found.pop(row.id, [])
        taken = sum(day.many for day in days)
        given_back = 0
        if row.id in told:
            later = _BY_DAY.where(intents.c.quota_id == row.id, intents.c.id > told[row.id].after)
            days = list(connection.execute(later))
            given_back = _given_back(connection, row, told[row.id])
        if row.taken != taken:
            yield f"quota {row.id}", f"counts {row.taken!a} certificates, and there are {taken} intents"
        elif not isinstance(row.day, int) or not isinstance(row.day_taken, int):
            yield f"quota {row.id}", "has values of other types"
        elif any(day.day > row.day for day in days):
            yield f"quota {row.id}", "has intents of a later day than its last one"
        # Not more exactly: with a clock that was ahead, later intents count in the day that it showed.
        elif row.day_taken < (least := sum(day.many for day in days if day.day == row.day)) - given_back:
            counted = f"counts {row.day_taken} certificates on its last day"
            yield f"quota {row.id}", f"{counted}, and there are {least} intents"
    for quota_id in found:
        yield f"quota {quota_id}", "is missing, and intents count in it"


def _given_back(connection: Connection, row: Any, told: _Told) -> int:
    """Return how many intents from before a reset were voided after it, and given back of what came later."""
    if told.reset_at is None:
        return 0
    voided = select(func.count()).where(
        intents.c.quota_id == row.id,
        intents.c.id <= told.after,
        intents.c.void_reason.is_not(None),
        intents.c.voided_at >= told.reset_at - SLACK,
        _day_of_intent == row.day,
    )
    return int(connection.execute(voided).scalar_one())


_many: Final = func.count().label("many")
_IN_NO_BATCH: Final = (
    select(intents.c.id)
    .outerjoin(batches, batches.c.id == intents.c.batch_id)
    .where(intents.c.batch_id.is_not(None), batches.c.id.is_(None))
)
_OF_ANOTHER_PROFILE: Final = (
    select(intents.c.id, intents.c.batch_id)
    .join(batches, batches.c.id == intents.c.batch_id)
    .where(intents.c.void_reason.is_(None), intents.c.profile != batches.c.profile)
)
_TOO_LATE: Final = (
    select(intents.c.id, intents.c.batch_id)
    .join(batches, batches.c.id == intents.c.batch_id)
    .where(intents.c.void_reason.is_(None))
    .where(
        or_(
            intents.c.intended_at > batches.c.closed_at + SLACK,
            intents.c.intended_at > batches.c.deadline + SLACK,
        )
    )
)
_day_of_intent: Final = cast((intents.c.intended_at - intents.c.intended_at % _DAY) / _DAY, BigInteger)
_day: Final = _day_of_intent.label("day")
_BY_DAY: Final = (
    select(intents.c.quota_id, _day, _many)
    .where(intents.c.quota_id.is_not(None), intents.c.void_reason.is_(None))
    .group_by(intents.c.quota_id, _day)
    .order_by(intents.c.quota_id)
)
