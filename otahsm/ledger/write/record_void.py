"""Step 5 of the cycle, and the other end of an intent: it gets a certificate (I1), or it is voided (I2).

Both close it, and only one of them can happen: see `otahsm.ledger.db.dialects.begin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Insert,
    bindparam,
    exists,
    func,
    insert,
    select,
    text,
    update,
)

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.db.dialects import LOCK_NAMESPACE, columns_given, insert_into, write_rows
from otahsm.ledger.records import Change, Tell
from otahsm.ledger.schema import certificates, crl_numbers, intents, live, replicas
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.sequencer import note_entries
from otahsm.ledger.write import batches, events, quotas
from otahsm.ledger.write.journal import no_rival_of, restore_superseded
from otahsm.pki import SerialNumber

_CERTIFICATE: Final = ("intent_id", "der", "recorded_at")
_FAR: Final = 1_000  # ids: so many are soon looked at
_LEFT: Final = "the daemon stopped before the certificate was recorded"

_open: Final = (intents.c.void_reason.is_(None)) & ~exists().where(certificates.c.intent_id == intents.c.id)


def write_certificates(connection: Connection, issued: Mapping[int, bytes], now: int) -> None:
    """Write certificates, DER by intent id, recorded at `now` in microseconds.

    Raises:
        LedgerUnavailableError: one of the intents is open no more; the transaction must be rolled back.
    """
    rows = [(intent_id, der, now) for intent_id, der in issued.items()]
    written = write_rows(connection, _record_statement(connection.dialect), _CERTIFICATE, rows)
    if written < len(rows):
        raise LedgerUnavailableError(
            f"{len(rows) - written} of {len(rows)} intents were voided by another replica meanwhile"
        )
    note_entries(connection, Kind.CERTIFICATE, issued)


@lru_cache(maxsize=2)
def _record_statement(dialect: Dialect) -> Insert:
    """Return the statement that writes certificates.

    Where there is one writer, nobody can have closed an intent that it holds. Among replicas somebody can:
    the place of a replica that lost its connection is cleared by the others. And two of them can have
    written intents for one key and two devices, neither seeing the other's; then the later one ends here.
    """
    given = columns_given(certificates, _CERTIFICATE, dialect)
    certified = select(given)
    if dialect.name == "postgresql":
        still_open = intents.c.void_reason.is_(None) & no_rival_of(intents)
        of_this = select(still_open).where(intents.c.id == given.c.intent_id)
        certified = certified.where(of_this.scalar_subquery())
    return insert(certificates).from_select(_CERTIFICATE, certified)


def void_intents(connection: Connection, intent_ids: Sequence[int], reason: str, now: int) -> int:
    """Void those of the intents named that are open; return how many were.

    An intent that has a certificate after all is left alone: what was recorded is never taken back.
    """
    return _void(connection, intents.c.id.in_(intent_ids), reason, now)


def enter(connection: Connection, place: int) -> None:
    """Make the row of a place, if nobody ever held it."""
    insert_slot = insert_into(replicas, connection.dialect).values(place=place, closed_below=0)
    connection.execute(insert_slot.on_conflict_do_nothing())


def anything_left(connection: Connection, own: int) -> bool:
    """Return whether replicas that are gone left anything open.

    Where they did not, the rows that there are now need not be looked at again.
    """
    left = False
    for place in _left_slots(connection, own):
        if connection.execute(select(intents.c.id).where(_left_open(place)).limit(1)).first():
            left = True
        else:
            note_all_closed(connection, place)
    return left


def clear_left_slots(connection: Connection, own: int, now: int, *, also_own: bool) -> int:
    """Void what replicas that are gone left open; return how many intents that were.

    Args:
        connection: in a transaction that began with `dialects.begin` and `closing`.
        own: the place of this replica.
        now: microseconds since the Unix epoch.
        also_own: whether this replica has only just taken its place, and has nothing open there itself.
    """
    places = [*_left_slots(connection, own), *([own] if also_own else [])]
    highest = _highest(connection)
    voided = 0
    for place in places:
        voided += _void(connection, _left_open(place), _LEFT, now)
        note_closed(connection, place, highest + 1)
    return voided


def is_far_behind(connection: Connection, place: int) -> bool:
    """Return whether others wrote many intents since this replica last noted that none of its own is open."""
    closed = select(replicas.c.closed_below).where(replicas.c.place == place)
    return _highest(connection) - (connection.execute(closed).scalar() or 0) > _FAR


def note_all_closed(connection: Connection, place: int) -> None:
    """Note that no intent of a place is open; those that it will write have ids above all that there are."""
    note_closed(connection, place, _highest(connection) + 1)


def note_closed(connection: Connection, place: int, below: int) -> None:
    """Note that no intent of a place with a smaller id is open."""
    connection.execute(_PROGRESS, {"at": place, "below": below})


def reset(
    connection: Connection, device_id: str, profile: str, now: int, tell: Tell[SerialNumber]
) -> Change[SerialNumber | None]:
    """Let a device have a new certificate, for any key of its own: what it has counts as superseded.

    The result is the serial number of the certificate that it has; None if it has none.
    """
    which = live & (intents.c.device_id == device_id) & (intents.c.profile == profile)
    certified = exists().where(certificates.c.intent_id == intents.c.id)
    key: bytes | None = connection.execute(
        update(intents)
        .where(which & certified)
        .values(superseded_at=now, superseded_by=None)
        .returning(intents.c.serial)
    ).scalar()
    if key is None:
        return Change(None, None)
    return events.changed(connection, SerialNumber.from_key(key), tell)


def touch(connection: Connection, place: int) -> None:
    """Write without changing anything: to see whether that can be done."""
    same = update(replicas).where(replicas.c.place == place).values(closed_below=replicas.c.closed_below)
    connection.execute(same)


def issuer_of(connection: Connection) -> bytes | None:
    """Return the key identifier of the CA whose certificates or CRLs this ledger has; None if it has none."""
    issued = select(intents.c.issuer_key_id).limit(1).scalar_subquery()
    numbered = select(crl_numbers.c.issuer_key_id).limit(1).scalar_subquery()
    return connection.execute(select(func.coalesce(issued, numbered))).scalar()


def _highest(connection: Connection) -> int:
    highest: int | None = connection.execute(select(func.max(intents.c.id))).scalar()
    return highest or 0


def _left_slots(connection: Connection, own: int) -> list[int]:
    """Return the places that nobody holds. Only replicas have other places than their own: PostgreSQL."""
    others = select(replicas.c.place).where(replicas.c.place != own).order_by(replicas.c.place)
    places: Sequence[int] = connection.execute(others).scalars().all()
    return [place for place in places if connection.execute(_IS_LEFT, {"place": place}).scalar()]


def _left_open(place: int) -> ColumnElement[bool]:
    below = select(replicas.c.closed_below).where(replicas.c.place == place).scalar_subquery()
    return (intents.c.id >= below) & (intents.c.place == place) & _open


def _void(connection: Connection, which: ColumnElement[bool], reason: str, now: int) -> int:
    values = {"void_reason": reason, "voided_at": now}
    voiding = update(intents).where(_open & which).values(values)
    given = (intents.c.id, intents.c.batch_id, intents.c.quota_id, intents.c.intended_at)
    rows = connection.execute(voiding.returning(*given)).all()
    voided = [row.id for row in rows]
    if voided:
        quotas.give_back(connection, ((row.quota_id, row.intended_at) for row in rows))
        batches.give_back(connection, (row.batch_id for row in rows))
        restore_superseded(connection, voided)
        note_entries(connection, Kind.VOID, sorted(voided))
    return len(voided)


# Who holds a place has locked its number in a session; see `otahsm.ledger.db.postgres`.
_IS_LEFT: Final = text(f"SELECT pg_try_advisory_xact_lock({LOCK_NAMESPACE}, :place)")
_PROGRESS: Final = (
    update(replicas).where(replicas.c.place == bindparam("at")).values(closed_below=bindparam("below"))
)
