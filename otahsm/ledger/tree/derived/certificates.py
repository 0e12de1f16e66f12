"""What follows from the leaves of certificates: which is the device's, and which intents may be open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, Select, and_, func, literal_column, or_, select

from otahsm.ledger.records import SLACK
from otahsm.ledger.schema import certificates, intents, leaves, replicas, revocations
from otahsm.ledger.tree.log_entries import CERTIFICATE_KINDS, Kind
from otahsm.pki.crls.building import Reason

_CHUNK: Final = 1000


def check_kinds(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield intents of no kind or of several, and what is of no intent."""
    for intent_id in _stream(connection, _NO_KIND):
        yield f"intent {intent_id}", "is void and not void, or void and superseded: it was changed"
    for intent_id in _stream(connection, _VOID_WITH_CERTIFICATE):
        yield f"intent {intent_id}", "is void, and has a certificate: it was changed"
    for table, orphans in _OF_NO_INTENT.items():
        for intent_id in _stream(connection, orphans):
            yield f"{table} {intent_id}", "there is no such intent: it was added, or the intent removed"


def check_doubles(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield devices and request ids with several live intents, and keys with several devices.

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


def check_superseded(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield certificates that are superseded by what no daemon wrote for that, and the reverse."""
    for row in connection.execute(_NOT_SUPERSEDED):
        newer = row.superseded_by
        yield f"intent {row.id}", f"is superseded by the intent {newer}, which was not written for that"
    for row in connection.execute(_SUPERSEDES_NOTHING):
        yield f"intent {row.id}", f"supersedes the intent {row.supersedes}, which does not say so"


def check_barred(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield certificates that a revocation should have barred: it was away for a moment."""
    for intent_id in _stream(connection, _OF_A_REVOKED_DEVICE):
        yield f"intent {intent_id}", "has a certificate, and that of its device had been revoked"
    for intent_id in _stream(connection, _OF_A_COMPROMISED_KEY):
        yield f"intent {intent_id}", "has a certificate, and its key had been revoked as compromised"


def check_open_intents(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yield open intents that no replica will void."""
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
_new_leaf: Final = leaves.alias("new_leaf")
_older: Final = intents.alias("older")
# What an intent supersedes is in its leaf; this is the other direction, and since when.
_is_by_it: Final = and_(
    _newer.c.supersedes == intents.c.id,
    _newer.c.void_reason.is_(None),
    _newer.c.intended_at == intents.c.superseded_at,
)
_NOT_SUPERSEDED: Final = (
    select(intents.c.id, intents.c.superseded_by)
    .outerjoin(_newer, _newer.c.id == intents.c.superseded_by)
    .where(intents.c.superseded_by.is_not(None), ~func.coalesce(_is_by_it, False))
)
_SUPERSEDES_NOTHING: Final = (
    select(intents.c.id, intents.c.supersedes)
    .outerjoin(_older, _older.c.id == intents.c.supersedes)
    .where(intents.c.supersedes.is_not(None), intents.c.void_reason.is_(None))
    .where(~func.coalesce(_older.c.superseded_by == intents.c.id, False))
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
    .where(_newer.c.intended_at > revocations.c.recorded_at + SLACK)
)
_OF_A_REVOKED_DEVICE: Final = _revoked_before.where(_newer.c.id == intents.c.superseded_by)
_OF_A_COMPROMISED_KEY: Final = _revoked_before.where(
    _newer.c.spki_sha256 == intents.c.spki_sha256,
    revocations.c.reason == Reason.KEY_COMPROMISE.value,
).distinct()
_OPEN_FOREVER: Final = (
    select(intents.c.id)
    .outerjoin(replicas, replicas.c.place == intents.c.place)
    .where(intents.c.void_reason.is_(None), _certified == 0)
    .where(intents.c.id < func.coalesce(replicas.c.closed_below, intents.c.id + 1))
)
