"""How many certificates a batch and a quota have: a count of intents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from sqlalchemy import BigInteger, Connection, cast, func, or_, select

from otahsm.ledger.schema import batches, events, intents, quotas
from otahsm.ledger.tree.verdict import SLACK

CORRECTED: Final = "quota.corrected"

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


def _corrections(connection: Connection) -> dict[int, int]:
    """Return up to which intent the day of a quota follows from an audit event instead, by the quota's id."""
    last: dict[int, int] = {}
    for details in connection.execute(select(events.c.details).where(events.c.name == CORRECTED)).scalars():
        try:
            said = json.loads(details)
            quota_id, after = int(said["quota"]), int(said["after"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # it was changed: its leaf says so
        last[quota_id] = max(after, last.get(quota_id, 0))
    return last


def check_quotas(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield quotas that count otherwise than their intents."""
    rows = connection.execute(_BY_DAY)
    last = _corrections(connection)
    found = {key: list(days) for key, days in groupby(rows, lambda row: row.quota_id)}
    for row in connection.execute(select(quotas)):
        days = found.pop(row.id, [])
        taken = sum(day.many for day in days)
        if row.id in last:
            later = _BY_DAY.where(intents.c.quota_id == row.id, intents.c.id > last[row.id])
            days = list(connection.execute(later))
        if row.taken != taken:
            yield f"quota {row.id}", f"counts {row.taken!a} certificates, and there are {taken} intents"
        elif not isinstance(row.day, int) or not isinstance(row.day_taken, int):
            yield f"quota {row.id}", "has values of other types"
        elif any(day.day > row.day for day in days):
            yield f"quota {row.id}", "has intents of a later day than its last one"
        # Not more exactly: with a clock that was ahead, later intents count in the day that it showed.
        elif row.day_taken < (least := sum(day.many for day in days if day.day == row.day)):
            counted = f"counts {row.day_taken} certificates on its last day"
            yield f"quota {row.id}", f"{counted}, and there are {least} intents"
    for quota_id in found:
        yield f"quota {quota_id}", "is missing, and intents count in it"


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
_day: Final = cast((intents.c.intended_at - intents.c.intended_at % _DAY) / _DAY, BigInteger).label("day")
_BY_DAY: Final = (
    select(intents.c.quota_id, _day, _many)
    .where(intents.c.quota_id.is_not(None), intents.c.void_reason.is_(None))
    .group_by(intents.c.quota_id, _day)
    .order_by(intents.c.quota_id)
)
