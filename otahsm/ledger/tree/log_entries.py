"""The kinds of entries in the ledger's log.

Whatever the ledger tells is in a leaf, or follows from leaves: see `otahsm.ledger.tree.derived`. What is
neither is listed in docs/security.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from sqlalchemy import Connection, Text, cast, func, select

from otahsm.ledger.schema import acts, batches, certificates, crl_urls, events, intents, quotas, revocations
from otahsm.ledger.tree.entry_kind import Entry, EntryKind


class Kind(IntEnum):
    """The kinds of entries, as in the tables."""

    CERTIFICATE = 1
    VOID = 2
    REVOCATION = 3
    EVENT = 4
    CERTIFICATE_2 = 5
    VOID_2 = 6
    MEMBERSHIP = 7
    SUPERSEDED = 8
    BATCH = 9
    BATCH_CLOSED = 10
    QUOTA = 11
    CRL_URL = 12
    ACT = 13
    ACT_DECIDED = 14
    RENEWAL = 15


# Listed explicitly: a leaf never changes, whatever columns are added to the tables. More members need a new
# kind.
_intended: Final = (
    intents.c.id,
    intents.c.serial,
    intents.c.request_id,
    intents.c.profile,
    intents.c.device_id,
    intents.c.spki_sha256,
    intents.c.tbs_sha256,
    intents.c.issuer_key_id,
    intents.c.not_before,
    intents.c.not_after,
    intents.c.client,
    intents.c.client_certificate_sha256,
    intents.c.intended_at,
    intents.c.place,
)
_intended_2: Final = (*_intended, intents.c.policy_client, intents.c.batch_id, intents.c.quota_id)

# A count is looked up for each row; for an anti-join, a planner may scan all certificates.
_certificates: Final = (
    select(func.count())
    .select_from(certificates)
    .where(certificates.c.intent_id == intents.c.id)
    .scalar_subquery()
)

# Not two conditions: a planner would scan the index of all intents that are not void.
_neither_reason_nor_time: Final = func.coalesce(intents.c.void_reason, cast(intents.c.voided_at, Text)).is_(
    None
)
_certified: Final = (*_intended, certificates.c.der, certificates.c.recorded_at)
_certified_2: Final = (*_intended_2, certificates.c.der, certificates.c.recorded_at)
_is_void: Final = intents.c.void_reason.is_not(None) & (_certificates == 0)
_is_old: Final = intents.c.policy_client.is_(None)  # written before there were the kinds with a 2

_superseded: Final = intents.alias("superseded")

# A new kind needs a number, its rows here, and a call of `note_entries` where they are written.
KINDS: Final = {
    Kind.CERTIFICATE: EntryKind(
        name="certificate",
        columns=_certified,
        source=intents.join(certificates),
        condition=_neither_reason_nor_time & _is_old,
    ),
    Kind.CERTIFICATE_2: EntryKind(
        name="certificate-2",
        noun="certificate",
        columns=_certified_2,
        source=intents.join(certificates),
        condition=_neither_reason_nor_time & ~_is_old,
    ),
    Kind.VOID: EntryKind(
        name="void",
        columns=(*_intended, intents.c.void_reason, intents.c.voided_at),
        source=intents,
        condition=_is_void & _is_old,
    ),
    Kind.VOID_2: EntryKind(
        name="void-2",
        noun="void",
        columns=(*_intended_2, intents.c.void_reason, intents.c.voided_at),
        source=intents,
        condition=_is_void & ~_is_old,
    ),
    # What the leaves of old rows lack.
    Kind.MEMBERSHIP: EntryKind(
        name="membership",
        noun="batch or quota",
        columns=(intents.c.id, intents.c.serial, intents.c.batch_id, intents.c.quota_id),
        source=intents,
        condition=_is_old & func.coalesce(intents.c.batch_id, intents.c.quota_id).is_not(None),
    ),
    # What the daemon saw of the certificate that it superseded, and by which intent.
    Kind.RENEWAL: EntryKind(
        name="renewal",
        columns=(
            intents.c.id,
            intents.c.serial,
            intents.c.supersedes,
            _superseded.c.device_id,
            _superseded.c.profile,
            _superseded.c.serial.label("superseded_serial"),
            _superseded.c.spki_sha256.label("superseded_spki_sha256"),
            _superseded.c.not_after.label("superseded_not_after"),
        ),
        source=intents.outerjoin(_superseded, _superseded.c.id == intents.c.supersedes),
        condition=intents.c.supersedes.is_not(None),
    ),
    # By no other certificate: after a reset, or a renewal that failed. Otherwise there is a renewal.
    Kind.SUPERSEDED: EntryKind(
        name="superseded",
        noun="reset",
        columns=(
            intents.c.id,
            intents.c.serial,
            intents.c.device_id,
            intents.c.profile,
            intents.c.superseded_at,
        ),
        source=intents,
        condition=intents.c.superseded_at.is_not(None) & intents.c.superseded_by.is_(None),
    ),
    Kind.REVOCATION: EntryKind(
        name="revocation",
        columns=(
            intents.c.id,
            intents.c.serial,
            intents.c.device_id,
            intents.c.profile,
            revocations.c.revoked_at,
            revocations.c.reason,
            revocations.c.client,
            revocations.c.recorded_at,
            revocations.c.crl_url,
        ),
        source=intents.join(revocations),
        condition=revocations.c.reason.is_not(None),
    ),
    Kind.EVENT: EntryKind(
        name="event",
        columns=(
            events.c.id,
            events.c.happened_at,
            events.c.name,
            events.c.client,
            events.c.occurrences,
            events.c.details,
        ),
        source=events,
        condition=events.c.name.is_not(None),
        key=events.c.id,
    ),
    Kind.BATCH: EntryKind(
        name="batch",
        columns=(
            batches.c.id,
            batches.c.name,
            batches.c.profile,
            batches.c.device_count,
            batches.c.scheme,
            batches.c.deadline,
            batches.c.clients,
            batches.c.creator,
            batches.c.created_at,
        ),
        source=batches,
        condition=batches.c.name.is_not(None),
        key=batches.c.id,
    ),
    Kind.BATCH_CLOSED: EntryKind(
        name="batch-closed",
        noun="closing of the batch",
        columns=(batches.c.id, batches.c.name, batches.c.closed_at),
        source=batches,
        condition=batches.c.closed_at.is_not(None),
        key=batches.c.id,
    ),
    Kind.QUOTA: EntryKind(
        name="quota",
        columns=(quotas.c.id, quotas.c.client),
        source=quotas,
        condition=quotas.c.client.is_not(None),
        key=quotas.c.id,
    ),
    Kind.CRL_URL: EntryKind(
        name="crl-url",
        noun="CRL URL",
        columns=(crl_urls.c.id, crl_urls.c.issuer_key_id, crl_urls.c.url, crl_urls.c.complete),
        source=crl_urls,
        condition=crl_urls.c.url.is_not(None),
        key=crl_urls.c.id,
    ),
    Kind.ACT: EntryKind(
        name="act",
        columns=(
            acts.c.id,
            acts.c.act,
            acts.c.client,
            acts.c.policy_client,
            acts.c.certificate_sha256,
            acts.c.spki_sha256,
            acts.c.requested_at,
            acts.c.size,
            acts.c.held,
            acts.c.payload,
        ),
        source=acts,
        condition=acts.c.act.is_not(None),
        key=acts.c.id,
    ),
    Kind.ACT_DECIDED: EntryKind(
        name="act-decided",
        noun="decision about the act",
        columns=(
            acts.c.id,
            acts.c.decision,
            acts.c.decided_at,
            acts.c.decided_by,
            acts.c.decided_policy_client,
            acts.c.done,
            acts.c.break_glass,
        ),
        source=acts,
        condition=acts.c.decision.is_not(None),
        key=acts.c.id,
    ),
}

# The kinds that say what was issued: an intent is of one of them.
CERTIFICATE_KINDS: Final = (Kind.CERTIFICATE, Kind.CERTIFICATE_2)
# The kinds of rows that have leaves since a version of the schema, and older ledgers have without one: see
# `otahsm.ledger.write.takeover`.
KINDS_ADDED: Final = {
    "0011": (
        Kind.MEMBERSHIP,
        Kind.SUPERSEDED,
        Kind.BATCH,
        Kind.BATCH_CLOSED,
        Kind.QUOTA,
        Kind.CRL_URL,
    ),
    "0013": (Kind.ACT, Kind.ACT_DECIDED),
    "0014": (Kind.RENEWAL,),
}


def last_kind_of(version: str) -> int:
    """Return the last kind that a version of the schema has."""
    return max([Kind.EVENT, *(max(kinds) for since, kinds in KINDS_ADDED.items() if since <= version)])


def read_leaves(connection: Connection, entries: Sequence[Entry]) -> list[bytes | None]:
    """Return the leaves of entries, in order; None for an entry that does not exist.

    Raises:
        TypeError, ValueError: a tampered column has values of another type, which SQLite permits.
    """
    by_kind: dict[int, list[int]] = {}
    for kind, intent_id in entries:
        by_kind.setdefault(kind, []).append(intent_id)
    found = {kind: KINDS[Kind(kind)].read(connection, ids) for kind, ids in by_kind.items() if kind in KINDS}
    return [found.get(kind, {}).get(intent_id) for kind, intent_id in entries]


def name_entry(entry: Entry) -> str:
    """Name an entry in a message, such as "the revocation of intent 7"."""
    if entry.kind not in KINDS:
        return f"the entry {entry.intent_id} of the unknown kind {entry.kind}"
    kind = KINDS[Kind(entry.kind)]
    of = "of intent " if is_of_an_intent(entry.kind) else ""
    return f"the {kind.noun or kind.name} {of}{entry.intent_id}"


def is_of_an_intent(kind: int) -> bool:
    """Return whether entries of a kind are identified by an intent."""
    return kind in KINDS and KINDS[Kind(kind)].key is intents.c.id
