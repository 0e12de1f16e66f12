"""Closing an intent: it gets a certificate in step 5 of the cycle (I1), or it is voided (I2).

Only one of them can happen: see `otahsm.ledger.db.dialects.begin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from sqlalchemy import ColumnElement, Connection, Dialect, Insert, exists, func, insert, select, update

from otahsm.errors import LedgerUnavailableError, OtahsmError
from otahsm.ledger.act_values import ActKind, Requester, ToReset
from otahsm.ledger.db.dialects import columns_given, write_rows
from otahsm.ledger.records import Change, EventFactory, Intent, WrittenIntent
from otahsm.ledger.schema import certificates, crl_numbers, intents, live, serial_octets
from otahsm.ledger.tree.log_entries import KINDS, Kind
from otahsm.ledger.tree.pending import note_entries, note_leaves
from otahsm.ledger.write import acts, batches, events, quotas
from otahsm.ledger.write.journal import no_rival_of, restore_superseded
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import canonical

_CERTIFICATE: Final = ("intent_id", "der", "recorded_at")

is_open: Final = (intents.c.void_reason.is_(None)) & ~exists().where(certificates.c.intent_id == intents.c.id)


def write_certificates(
    connection: Connection, issued: Mapping[int, bytes], opened: Mapping[int, WrittenIntent], now: int
) -> None:
    """Write certificates, DER by intent id, recorded at `now` in microseconds.

    Leaves are made from the intents as they were written, not as they are in the tables now.

    Args:
        connection: in a transaction.
        issued: the certificates.
        opened: the intents that this process wrote, by id.
        now: microseconds since the Unix epoch.

    Raises:
        LedgerUnavailableError: an intent is no longer open; the transaction must be rolled back.
    """
    intents_of = {intent_id: opened[intent_id] for intent_id in issued if intent_id in opened}
    if len(intents_of) < len(issued):
        raise LedgerUnavailableError(f"{len(issued) - len(intents_of)} of {len(issued)} intents are not open")
    rows = [(intent_id, der, now) for intent_id, der in issued.items()]
    written = write_rows(connection, _record_statement(connection.dialect), _CERTIFICATE, rows)
    if written < len(rows):
        raise LedgerUnavailableError(
            f"{len(rows) - written} of {len(rows)} intents were voided by another replica"
        )
    note_leaves(connection, Kind.CERTIFICATE_2, _leaves_of(rows, intents_of))


def _leaves_of(
    rows: Sequence[tuple[int, bytes, int]], intents_of: Mapping[int, WrittenIntent]
) -> dict[int, bytes]:
    """Return the leaves of certificates, by intent id."""
    written = [intents_of[intent_id] for intent_id, *_ in rows]
    columns = dict(zip(Intent._fields, zip(*(item.intent for item in written), strict=True), strict=True))
    columns["serial"] = tuple(serial.key for serial in columns["serial"])
    columns["place"] = tuple(item.place for item in written)
    columns["id"], columns["der"], columns["recorded_at"] = zip(*rows, strict=True)
    return dict(zip(columns["id"], KINDS[Kind.CERTIFICATE_2].encode(columns), strict=True))


@lru_cache(maxsize=2)
def _record_statement(dialect: Dialect) -> Insert:
    """Return the statement that writes certificates.

    A single writer's open intents can't be closed by anyone else. Those of a replica can: if it loses its
    connection, others clear its slot. Also, two replicas can have written intents for one key and two devices
    without seeing each other's; then the later one fails here.
    """
    given = columns_given(certificates, _CERTIFICATE, dialect)
    certified = select(given)
    if dialect.name == "postgresql":
        still_open = intents.c.void_reason.is_(None) & no_rival_of(intents)
        of_this = select(still_open).where(intents.c.id == given.c.intent_id)
        certified = certified.where(of_this.scalar_subquery())
    return insert(certificates).from_select(_CERTIFICATE, certified)


def void_intents(connection: Connection, intent_ids: Sequence[int], reason: str, now: int) -> int:
    """Void those of the given intents that are open; return their number.

    An intent that has a certificate is not changed: recorded certificates are never voided.
    """
    return void_where(connection, intents.c.id.in_(intent_ids), reason, now)


def reset(
    connection: Connection,
    target: ToReset,
    by: Requester | None,
    now: int,
    make_event: EventFactory[SerialNumber],
    asked_at: int | None = None,
) -> Change[SerialNumber | OtahsmError | None]:
    """Allow a device a certificate for another key, by marking its current one as superseded.

    The result is the serial number of its current certificate; None if it has none; an error if it is held.

    Args:
        connection: in a transaction with the lock of events.
        target: the device.
        by: who asks for it; None if it was confirmed.
        now: microseconds since the Unix epoch.
        make_event: makes the audit event if it is reset.
        asked_at: when it was asked for, if it was confirmed: a certificate since then is not reset.
    """
    of_this = (intents.c.device_id == target.device_id) & (intents.c.profile == target.profile)
    certified = exists().where(certificates.c.intent_id == intents.c.id)
    which = live & of_this & certified
    if asked_at is not None:
        which &= intents.c.intended_at <= asked_at
    if connection.execute(select(intents.c.id).where(which)).first() is None:
        return Change(None, None)
    if held := acts.bound(connection, ActKind.RESET, by, canonical(target._asdict()), now):
        return held
    row = connection.execute(
        update(intents)
        .where(which)
        .values(superseded_at=now, superseded_by=None)
        .returning(intents.c.id, serial_octets)
    ).one()
    note_entries(connection, Kind.SUPERSEDED, [row.id])
    return events.changed(connection, SerialNumber.from_key(row.serial), make_event)


def issuer_of(connection: Connection) -> bytes | None:
    """Return the key identifier of a CA that has certificates or CRLs in this ledger; None if it is empty."""
    issued = select(intents.c.issuer_key_id).limit(1).scalar_subquery()
    numbered = select(crl_numbers.c.issuer_key_id).limit(1).scalar_subquery()
    return connection.execute(select(func.coalesce(issued, numbered))).scalar()


def void_where(connection: Connection, which: ColumnElement[bool], reason: str, now: int) -> int:
    """Void the open intents that match a condition; return their number."""
    values = {"void_reason": reason, "voided_at": now}
    voiding = update(intents).where(is_open & which).values(values)
    given = (
        intents.c.id,
        intents.c.batch_id,
        intents.c.quota_id,
        intents.c.intended_at,
        intents.c.policy_client,
    )
    rows = connection.execute(voiding.returning(*given)).all()
    voided = [row.id for row in rows]
    if voided:
        quotas.give_back(connection, ((row.quota_id, row.intended_at) for row in rows))
        batches.give_back(connection, (row.batch_id for row in rows))
        restore_superseded(connection, voided)
        for kind, old in ((Kind.VOID, True), (Kind.VOID_2, False)):
            note_entries(connection, kind, sorted(r.id for r in rows if (r.policy_client is None) is old))
    return len(voided)
