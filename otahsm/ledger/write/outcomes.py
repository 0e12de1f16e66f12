"""Closing an intent: it gets a certificate in step 5 of the cycle (I1), or it is voided (I2).

Only one of them can happen: see `otahsm.ledger.db.dialects.begin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from sqlalchemy import ColumnElement, Connection, Dialect, Insert, exists, func, insert, select, update

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.db.dialects import columns_given, write_rows
from otahsm.ledger.records import Change, EventFactory
from otahsm.ledger.schema import certificates, crl_numbers, intents, live, serial_octets
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.sequencer import note_entries
from otahsm.ledger.write import batches, events, quotas
from otahsm.ledger.write.journal import no_rival_of, restore_superseded
from otahsm.pki.serial import SerialNumber

_CERTIFICATE: Final = ("intent_id", "der", "recorded_at")

is_open: Final = (intents.c.void_reason.is_(None)) & ~exists().where(certificates.c.intent_id == intents.c.id)


def write_certificates(connection: Connection, issued: Mapping[int, bytes], now: int) -> None:
    """Write certificates, DER by intent id, recorded at `now` in microseconds.

    Raises:
        LedgerUnavailableError: an intent is no longer open; the transaction must be rolled back.
    """
    rows = [(intent_id, der, now) for intent_id, der in issued.items()]
    written = write_rows(connection, _record_statement(connection.dialect), _CERTIFICATE, rows)
    if written < len(rows):
        raise LedgerUnavailableError(
            f"{len(rows) - written} of {len(rows)} intents were voided by another replica"
        )
    note_entries(connection, Kind.CERTIFICATE, issued)


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
    connection: Connection, device_id: str, profile: str, now: int, make_event: EventFactory[SerialNumber]
) -> Change[SerialNumber | None]:
    """Allow a device a certificate for another key, by marking its current one as superseded.

    The result is the serial number of its current certificate; None if it has none.
    """
    which = live & (intents.c.device_id == device_id) & (intents.c.profile == profile)
    certified = exists().where(certificates.c.intent_id == intents.c.id)
    key: bytes | None = connection.execute(
        update(intents)
        .where(which & certified)
        .values(superseded_at=now, superseded_by=None)
        .returning(serial_octets)
    ).scalar()
    if key is None:
        return Change(None, None)
    return events.changed(connection, SerialNumber.from_key(key), make_event)


def issuer_of(connection: Connection) -> bytes | None:
    """Return the key identifier of a CA that has certificates or CRLs in this ledger; None if it is empty."""
    issued = select(intents.c.issuer_key_id).limit(1).scalar_subquery()
    numbered = select(crl_numbers.c.issuer_key_id).limit(1).scalar_subquery()
    return connection.execute(select(func.coalesce(issued, numbered))).scalar()


def void_where(connection: Connection, which: ColumnElement[bool], reason: str, now: int) -> int:
    """Void the open intents that match a condition; return their number."""
    values = {"void_reason": reason, "voided_at": now}
    voiding = update(intents).where(is_open & which).values(values)
    given = (intents.c.id, intents.c.batch_id, intents.c.quota_id, intents.c.intended_at)
    rows = connection.execute(voiding.returning(*given)).all()
    voided = [row.id for row in rows]
    if voided:
        quotas.give_back(connection, ((row.quota_id, row.intended_at) for row in rows))
        batches.give_back(connection, (row.batch_id for row in rows))
        restore_superseded(connection, voided)
        note_entries(connection, Kind.VOID, sorted(voided))
    return len(voided)
