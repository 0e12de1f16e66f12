"""Verifies the rows that are in no leaf of their own, but follow from leaves.

- which certificate supersedes another: the later one's leaf has the same device and profile
- how many certificates a batch and a quota have: a count of intents
- who is denied: the last audit event about a client
- from which id on a replica's intents may be open: none below it is
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
)

from otahsm.ledger.schema import (
    batches,
    certificates,
    denied_clients,
    events,
    intents,
    leaves,
    quotas,
    replicas,
    revocations,
)
from otahsm.ledger.tree.log_entries import CERTIFICATE_KINDS, Kind
from otahsm.ledger.tree.verdict import Verdict
from otahsm.pki.crls.building import Reason
from otahsm.system.spool import storable

DENIED: Final = "client.cut_off"
ALLOWED: Final = "client.let_in"
CORRECTED: Final = "quota.corrected"

_DAY: Final = 24 * 3600 * 1_000_000
_SLACK: Final = 600 * 1_000_000  # between the clocks of replicas
_CHUNK: Final = 1000


class DenialEvent(NamedTuple):
    """The audit event that denied a client: its time in microseconds, who did it, why, and its id."""

    happened_at: int
    client: str
    reason: str
    id: int = 0


def check_derived(connection: Connection, verdict: Verdict) -> None:
    """Add to the verdict what does not follow from the leaves.

    Args:
        connection: from `snapshot`.
        verdict: of the same snapshot.
    """
    for check in (_kinds, _doubles, _superseded, _barred, _batches, _quotas, _denials, _open_intents):
        for where, what in check(connection):
            verdict.find(where, what)


def denial_events(connection: Connection) -> dict[str, DenialEvent]:
    """Return who is denied according to the audit log, by subject."""
    denied: dict[str, DenialEvent] = {}
    query = select(events).where(events.c.name.in_((DENIED, ALLOWED))).order_by(events.c.id)
    for row in connection.execute(query.execution_options(yield_per=_CHUNK)):
        try:
            details = json.loads(row.details)
            subject, reason = str(details["subject"]), str(details.get("reason", ""))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # it was changed: its leaf says so
        if row.name == DENIED:
            denied[subject] = DenialEvent(row.happened_at, row.client, reason, row.id)
        else:
            denied.pop(subject, None)
    return denied


def says(event: DenialEvent, row: Any) -> bool:
    """Return whether an event says what a row of `denied_clients` does."""
    known = DenialEvent(row.denied_at, storable(str(row.client)), storable(str(row.reason)))
    return event._replace(id=0) == known


def _kinds(connection: Connection) -> Iterator[tuple[str, str]]:
    for intent_id in _stream(connection, _NO_KIND):
        yield f"intent {intent_id}", "is void and not void, or void and superseded: it was changed"
    for intent_id in _stream(connection, _VOID_WITH_CERTIFICATE):
        yield f"intent {intent_id}", "is void, and has a certificate: it was changed"
    for table, orphans in _OF_NO_INTENT.items():
        for intent_id in _stream(connection, orphans):
            yield f"{table} {intent_id}", "there is no such intent: it was added, or the intent removed"


def _doubles(connection: Connection) -> Iterator[tuple[str, str]]:
    """Devices and request ids with more than one live intent, and keys with more than one device.

    Indexes were not unique, or rows were others while the daemon looked.
    """
    for row in connection.execute(_DEVICES_TWICE):
        yield (
            f"intent {row.last}",
            f"the device {row.device_id!a} has {row.many} live intents under the profile {row.profile!a}",
        )
    for row in connection.execute(_REQUESTS_TWICE):
        what = f"the request id {row.request_id!a} of {row.client!a} has {row.many} live intents"
        yield f"intent {row.last}", what
    for intent_id in _stream(connection, _KEYS_TWICE):
        yield f"intent {intent_id}", "has a certificate for a key that another device has a certificate for"


def _superseded(connection: Connection) -> Iterator[tuple[str, str]]:
    for row in connection.execute(_NOT_SUPERSEDED):
        newer = row.superseded_by
        yield f"intent {row.id}", f"is superseded by the intent {newer}, which can't be: it was changed"
    for row in connection.execute(_SUPERSEDES_TWO):
        yield f"intent {row.superseded_by}", f"supersedes {row.many} intents: one of them was changed"


def _batches(connection: Connection) -> Iterator[tuple[str, str]]:
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
    for intent_id in _stream(connection, _IN_NO_BATCH):
        yield f"intent {intent_id}", "is in a batch that does not exist"


def _barred(connection: Connection) -> Iterator[tuple[str, str]]:
    """Certificates that a revocation should have barred: it was away for a moment."""
    for intent_id in _stream(connection, _OF_A_REVOKED_DEVICE):
        yield f"intent {intent_id}", "has a certificate, and that of its device had been revoked"
    for intent_id in _stream(connection, _OF_A_COMPROMISED_KEY):
        yield f"intent {intent_id}", "has a certificate, and its key had been revoked as compromised"


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


def _quotas(connection: Connection) -> Iterator[tuple[str, str]]:
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


def _denials(connection: Connection) -> Iterator[tuple[str, str]]:
    said = denial_events(connection)
    for row in connection.execute(select(denied_clients)):
        event = said.pop(storable(str(row.subject)), None)
        if event is None:
            yield f"denied client {row.subject!a}", "the audit log does not say that it is denied"
        elif not says(event, row):
            yield f"denied client {row.subject!a}", "differs from the audit event that denied it"
    for subject in said:
        yield f"denied client {subject!a}", "is missing: the audit log says that it is denied"


def _open_intents(connection: Connection) -> Iterator[tuple[str, str]]:
    for intent_id in _stream(connection, _OPEN_FOREVER):
        yield (
            f"intent {intent_id}",
            "is open, and no replica will void it: it was changed or added",
        )


def _stream(connection: Connection, query: Select[int]) -> Iterator[int]:
    return iter(connection.execute(query.execution_options(yield_per=_CHUNK)).scalars())


_certified: Final = (
    select(func.count())
    .select_from(certificates)
    .where(certificates.c.intent_id == intents.c.id)
    .scalar_subquery()
)
_NO_KIND: Final = select(intents.c.id).where(
    or_(
        intents.c.void_reason.is_(None) != intents.c.voided_at.is_(None),
        and_(intents.c.superseded_by.is_not(None), intents.c.superseded_at.is_(None)),
        and_(intents.c.void_reason.is_not(None), intents.c.superseded_at.is_not(None)),
    )
)
_VOID_WITH_CERTIFICATE: Final = select(intents.c.id).where(intents.c.void_reason.is_not(None), _certified > 0)

_OF_NO_INTENT: Final = {
    table.name: select(table.c.intent_id)
    .outerjoin(intents, intents.c.id == table.c.intent_id)
    .where(intents.c.id.is_(None))
    for table in (certificates, revocations)
}

_live: Final = and_(intents.c.void_reason.is_(None), intents.c.superseded_at.is_(None))
_many: Final = func.count().label("many")
_last: Final = func.max(intents.c.id).label("last")
_DEVICES_TWICE: Final = (
    select(intents.c.device_id, intents.c.profile, _many, _last)
    .where(_live)
    .group_by(intents.c.device_id, intents.c.profile)
    .having(func.count() > 1)
)
_REQUESTS_TWICE: Final = (
    select(intents.c.request_id, intents.c.client, _many, _last)
    .where(_live, intents.c.request_id != literal_column("''"))
    .group_by(intents.c.request_id, intents.c.client)
    .having(func.count() > 1)
)

# A key belongs to its device forever.
_KEYS_TWICE: Final = (
    select(func.max(intents.c.id))
    .join(certificates, certificates.c.intent_id == intents.c.id)
    .where(intents.c.void_reason.is_(None))
    .group_by(intents.c.spki_sha256)
    .having(func.min(intents.c.device_id) != func.max(intents.c.device_id))
)

_newer: Final = intents.alias("newer")
_namesake: Final = intents.alias("namesake")
_old_leaf, _new_leaf = leaves.alias("old_leaf"), leaves.alias("new_leaf")
_is_for_it: Final = and_(
    _newer.c.device_id == intents.c.device_id,
    _newer.c.profile == intents.c.profile,
    # In older ledgers, it is when the first intent of the transaction was intended.
    or_(_newer.c.policy_client.is_(None), intents.c.superseded_at == _newer.c.intended_at),
)
# The newer one failed, and by then another certificate had the request id of the older one.
_stays: Final = and_(
    _newer.c.void_reason.is_not(None),
    _is_for_it,
    exists()
    .where(_namesake.c.request_id == intents.c.request_id, _namesake.c.id != intents.c.id)
    .where(_namesake.c.request_id != literal_column("''"), _namesake.c.void_reason.is_(None))
    .where(certificates.c.intent_id == _namesake.c.id)
    .correlate(intents),
)
_follows: Final = and_(
    _newer.c.void_reason.is_(None),
    _is_for_it,
    _certified > 0,
    # The leaves' order shows which was first: the older one is in the tree, or both wait, or both are in it.
    case(
        (_new_leaf.c.leaf_index.is_(None), True),
        else_=func.coalesce(_old_leaf.c.leaf_index < _new_leaf.c.leaf_index, False),
    ),
)
_NOT_SUPERSEDED: Final = (
    select(intents.c.id, intents.c.superseded_by)
    .select_from(
        intents.outerjoin(_newer, _newer.c.id == intents.c.superseded_by)
        .outerjoin(
            _old_leaf,
            and_(_old_leaf.c.intent_id == intents.c.id, _old_leaf.c.kind.in_(CERTIFICATE_KINDS)),
        )
        .outerjoin(
            _new_leaf,
            and_(_new_leaf.c.intent_id == _newer.c.id, _new_leaf.c.kind.in_(CERTIFICATE_KINDS)),
        )
    )
    .where(
        intents.c.superseded_by.is_not(None), ~func.coalesce(_follows, False), ~func.coalesce(_stays, False)
    )
)
_SUPERSEDES_TWO: Final = (
    select(intents.c.superseded_by, _many)
    .where(intents.c.superseded_by.is_not(None))
    .group_by(intents.c.superseded_by)
    .having(func.count() > 1)
)

# The leaves' order shows that the revocation was first; times, that it was not under way meanwhile.
_revoked_leaf: Final = leaves.alias("revoked_leaf")
_revoked_before: Final = (
    select(_newer.c.id)
    .select_from(revocations)
    .join(intents, intents.c.id == revocations.c.intent_id)
    .join(_revoked_leaf, _revoked_leaf.c.intent_id == intents.c.id)
    .where(_revoked_leaf.c.kind == Kind.REVOCATION, _newer.c.void_reason.is_(None))
    .where(_new_leaf.c.intent_id == _newer.c.id, _new_leaf.c.kind.in_(CERTIFICATE_KINDS))
    .where(_revoked_leaf.c.leaf_index < _new_leaf.c.leaf_index)
    .where(_newer.c.intended_at > revocations.c.recorded_at + _SLACK)
)
_OF_A_REVOKED_DEVICE: Final = _revoked_before.where(_newer.c.id == intents.c.superseded_by)
_OF_A_COMPROMISED_KEY: Final = _revoked_before.where(
    _newer.c.spki_sha256 == intents.c.spki_sha256,
    revocations.c.reason == Reason.KEY_COMPROMISE.value,
).distinct()

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
_day: Final = cast((intents.c.intended_at - intents.c.intended_at % _DAY) / _DAY, BigInteger).label("day")
_BY_DAY: Final = (
    select(intents.c.quota_id, _day, _many)
    .where(intents.c.quota_id.is_not(None), intents.c.void_reason.is_(None))
    .group_by(intents.c.quota_id, _day)
    .order_by(intents.c.quota_id)
)
_OPEN_FOREVER: Final = (
    select(intents.c.id)
    .outerjoin(replicas, replicas.c.place == intents.c.place)
    .where(intents.c.void_reason.is_(None), _certified == 0)
    .where(intents.c.id < func.coalesce(replicas.c.closed_below, intents.c.id + 1))
)
