"""Revocations and CRLs, as SQL. What is written here is written in the transactions of `Ledger`.

Nothing takes a revocation back: there is no statement that changes or removes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, bindparam, case, select, update

from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.records import (
    CrlNumber,
    CrlRow,
    InProgress,
    Revocation,
    RevocationAnswer,
    RevocationRequest,
    StoredCrl,
)
from otahsm.ledger.schema import certificates, crl_numbers, crl_urls, crls, intents, live, revocations
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.sequencer import note_entries
from otahsm.pki import SerialNumber, crl_url_in

_ROWS: Final = 500  # in one statement: databases allow so many parameters


def revoke(
    connection: Connection, targets: Sequence[RevocationRequest], client: str, now: int
) -> list[RevocationAnswer]:
    """Revoke what is not revoked yet; answer each target, in order, with what is revoked now.

    An empty answer: there is no such certificate. `InProgress`: one is only being issued, and will not be
    revoked unless this is asked again; what is issued already is.

    Args:
        connection: in a transaction.
        targets: at least one.
        client: who asks.
        now: microseconds since the Unix epoch.
    """
    chosen = _choose(_look_up(connection, targets), targets)
    reasons: dict[int, str] = {}
    for target, rows in zip(targets, chosen, strict=True):
        for row in rows:
            if row.recorded and row.revoked_at is None:
                reasons.setdefault(row.id, str(target.reason))
    if not reasons:
        return [_answer(rows, set()) for rows in chosen]
    new = _insert(connection, reasons, client, now)
    # Again: another replica may have been faster with some, and then its reason stands.
    return [_answer(rows, new) for rows in _choose(_look_up(connection, targets), targets)]


def _look_up(connection: Connection, targets: Sequence[RevocationRequest]) -> Sequence[Row[Any]]:
    """Find the intents, of those that are not void, that the targets may mean."""
    query = (
        select(
            intents.c.id,
            intents.c.serial,
            intents.c.device_id,
            intents.c.profile,
            certificates.c.intent_id.is_not(None).label("recorded"),
            revocations.c.revoked_at,
            revocations.c.reason,
        )
        .select_from(intents.outerjoin(certificates).outerjoin(revocations))
        .where(intents.c.void_reason.is_(None))
        .order_by(intents.c.id)
    )
    keys = [target.serial.key for target in targets if target.serial]
    devices = [target.device_id for target in targets if target.serial is None]
    found: dict[int, Row[Any]] = {}
    # An index each: what a device has, and what it had.
    for which, values in (
        (intents.c.serial.in_(keys), keys),
        (intents.c.device_id.in_(devices) & live, devices),
        (intents.c.device_id.in_(devices) & intents.c.superseded_at.is_not(None), devices),
    ):
        if values:
            found.update((row.id, row) for row in connection.execute(query.where(which)))
    return [found[intent_id] for intent_id in sorted(found)]


def _choose(rows: Sequence[Row[Any]], targets: Sequence[RevocationRequest]) -> list[list[Row[Any]]]:
    """Divide what was found among the targets."""
    by_serial: dict[bytes, list[Row[Any]]] = {}
    by_device: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_serial.setdefault(row.serial, []).append(row)
        by_device.setdefault(row.device_id, []).append(row)
    return [
        [
            row
            for row in (by_serial.get(serial.key, []) if serial else by_device.get(device_id, []))
            if profile in ("", row.profile)
        ]
        for serial, device_id, profile, _ in targets
    ]


def _answer(rows: Sequence[Row[Any]], new: set[int]) -> RevocationAnswer:
    """Say what became of a target; whoever named a certificate first revoked it."""
    if not all(row.recorded for row in rows):
        return InProgress()
    answer = [
        Revocation(
            SerialNumber.from_key(row.serial),
            row.device_id,
            row.profile,
            row.revoked_at,
            row.reason,
            row.id not in new,
        )
        for row in rows
    ]
    new.difference_update(row.id for row in rows)
    return answer


def _insert(connection: Connection, reasons: Mapping[int, str], client: str, now: int) -> set[int]:
    """Write revocations, by intent id; return the ids of those that nobody had written before."""
    wanted = select(certificates.c.intent_id, certificates.c.der)
    written: set[int] = set()
    ids = sorted(reasons)  # in one order, whoever writes: replicas seldom wait for each other
    for part in (ids[at : at + _ROWS] for at in range(0, len(ids), _ROWS)):
        ders = connection.execute(wanted.where(certificates.c.intent_id.in_(part)))
        rows = [
            {
                "intent_id": intent_id,
                "revoked_at": now // 1_000_000,
                "reason": reasons[intent_id],
                "client": client,
                "recorded_at": now,
                "crl_url": _url_in(der),
            }
            for intent_id, der in sorted(tuple(row) for row in ders)
        ]
        statement = _insert_new(connection, revocations).values(rows).returning(revocations.c.intent_id)
        new = connection.execute(statement).scalars().all()
        note_entries(connection, Kind.REVOCATION, sorted(new))
        written.update(new)
    return written


def _url_in(der: bytes) -> str | None:
    try:
        return crl_url_in(der)
    except ValueError:
        return None  # revoked all the same, in the complete CRL


def note_urls(connection: Connection, issuer_key_id: bytes, urls: Sequence[str], *, complete: bool) -> None:
    """Remember that certificates may state these URLs; what was once said of one of them stays.

    Args:
        connection: in a transaction.
        issuer_key_id: the CA's.
        urls: at least one.
        complete: whether the complete CRL is there, or each has a shard's.
    """
    rows = [{"issuer_key_id": issuer_key_id, "url": url, "complete": complete} for url in urls]
    connection.execute(_insert_new(connection, crl_urls), rows)


def take_number(
    connection: Connection, issuer_key_id: bytes, above: int, earliest: int, now: int
) -> CrlNumber:
    """Take a number for CRLs that are about to be made, and decide what thisUpdate they state.

    A number is higher than any before. The time does not go back either, unless it would lie in the future
    for the clock of now: verifiers refuse a CRL that is not valid yet, and with it every device.

    Args:
        connection: in a transaction; others that take a number wait until it ends.
        issuer_key_id: the CA's.
        above: a number that was used, whatever the ledger knows.
        earliest: the time that is stated is not before this, in seconds since the Unix epoch.
        now: nor is it after this.
    """
    first = {"issuer_key_id": issuer_key_id, "number": 0, "this_update": 0}
    connection.execute(_insert_new(connection, crl_numbers), first)
    mine = crl_numbers.c.issuer_key_id == issuer_key_id
    last = case((crl_numbers.c.number < above, above), else_=crl_numbers.c.number)
    taken = connection.execute(
        update(crl_numbers)
        .where(mine)
        .values(number=last + 1)
        .returning(crl_numbers.c.number, crl_numbers.c.this_update)
    ).one()
    this_update = min(max(taken.this_update, earliest), now)
    connection.execute(update(crl_numbers).where(mine).values(this_update=this_update))
    return CrlNumber(taken.number, this_update)


def write_crls(connection: Connection, issuer_key_id: bytes, made: Sequence[StoredCrl]) -> None:
    """Write CRLs of a CA, each in the place of an older one of its scope; never over a newer one."""
    insert = insert_into(crls, connection.dialect)
    put = insert.values(
        {name: bindparam(name) for name in ("issuer_key_id", "url", *CrlRow._fields, "der")}
    ).on_conflict_do_update(
        index_elements=[crls.c.issuer_key_id, crls.c.url],
        set_={name: insert.excluded[name] for name in (*CrlRow._fields, "der")},
        where=crls.c.number < insert.excluded.number,
    )
    mine = {"issuer_key_id": issuer_key_id}
    connection.execute(put, [{**mine, "url": url, **row._asdict(), "der": der} for url, row, der in made])


def _insert_new(connection: Connection, table: Table) -> Any:
    """Begin a statement that writes rows, but leaves those alone that are there."""
    return insert_into(table, connection.dialect).on_conflict_do_nothing()
