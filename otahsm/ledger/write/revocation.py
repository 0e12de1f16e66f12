"""Writing revocations and CRLs, in the transactions of `Ledger`.

Revocation is permanent: no statement changes or removes one that a daemon wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, Table, bindparam, case, delete, select, update

from otahsm.ledger.act_values import ActKind, Requester, revocation_payload
from otahsm.ledger.db.dialects import insert_into
from otahsm.ledger.records import (
    Change,
    CrlNumber,
    CrlRow,
    InProgress,
    Revocation,
    RevocationAnswer,
    RevocationRequest,
    StoredCrl,
)
from otahsm.ledger.schema import (
    certificates,
    crl_numbers,
    crl_urls,
    crls,
    intents,
    live,
    revocations,
    serial_octets,
)
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.pending import note_entries, proven_among
from otahsm.ledger.write import acts
from otahsm.pki.parsing import crl_url_in
from otahsm.pki.serial import SerialNumber

_ROWS: Final = 500  # per statement: databases limit the number of parameters


class _Plan(NamedTuple):
    """The reasons of revocations to write, by intent id; and what is held, by the position of its target."""

    reasons: dict[int, str]
    held: dict[int, set[int]]


def revoke(
    connection: Connection, targets: Sequence[RevocationRequest], by: Requester, now: int
) -> Change[list[RevocationAnswer]]:
    """Revoke certificates; return the revoked certificates of each target, in order.

    An empty list means that there is no such certificate. `InProgress` means that one is still being issued
    and was not revoked; certificates that were already issued are revoked. What exceeds a quota is held: all
    new revocations of a target together. The event is that of the held act.

    Args:
        connection: in a transaction with the lock of events.
        targets: at least one.
        by: the client that requests it.
        now: microseconds since the Unix epoch.
    """
    left = acts.used(connection, ActKind.REVOCATION, by, now).left(by)
    answers, plan = _revoke(connection, targets, by.identity, now, left)
    acts.note_done(connection, ActKind.REVOCATION, by, len(plan.reasons), now)
    if not plan.held:
        return Change(answers, None)
    size = len(set().union(*plan.held.values()))
    payload = revocation_payload(targets[at] for at in plan.held)
    error, event = acts.hold(connection, ActKind.REVOCATION, by, size, payload, now)
    return Change([error if at in plan.held else answer for at, answer in enumerate(answers)], event)


def revoke_confirmed(
    connection: Connection, targets: Sequence[RevocationRequest], client: str, asked_at: int, now: int
) -> int | None:
    """Revoke what a second principal confirmed; return how many were new, None if one is being issued.

    Certificates that devices have got since are not revoked: nobody has looked at them.

    Args:
        connection: in a transaction with the lock of events.
        targets: at least one.
        client: the client that asked for it.
        asked_at: when; microseconds since the Unix epoch.
        now: microseconds since the Unix epoch.
    """
    chosen = _choose(_look_up(connection, targets), targets)
    newer = _newer(targets, chosen, asked_at)
    if not all(row.recorded for rows in chosen for row in rows if row.id not in newer):
        return None
    _, plan = _revoke(connection, targets, client, now, None, newer.keys())
    return len(plan.reasons)


def newer_devices(
    connection: Connection, targets: Sequence[RevocationRequest], asked_at: int, until: int
) -> tuple[str, ...]:
    """Return the devices that got a certificate after their revocation was asked for, which is not revoked.

    Args:
        connection: any connection.
        targets: at least one.
        asked_at: when it was asked for; microseconds since the Unix epoch.
        until: when it was confirmed.
    """
    newer = _newer(targets, _choose(_look_up(connection, targets), targets), asked_at).values()
    ids = {row.device_id for row in newer if row.intended_at <= until and row.revoked_at is None}
    return tuple(sorted(ids))


def _newer(
    targets: Sequence[RevocationRequest], chosen: Sequence[Sequence[Row[Any]]], asked_at: int
) -> dict[int, Row[Any]]:
    """Return the certificates since a time, by intent id, that are named by their devices only."""
    named = {row.id for target, rows in zip(targets, chosen, strict=True) if target.serial for row in rows}
    every = {row.id: row for rows in chosen for row in rows}
    return {at: row for at, row in every.items() if row.intended_at > asked_at and at not in named}


def _revoke(
    connection: Connection,
    targets: Sequence[RevocationRequest],
    client: str,
    now: int,
    left: int | None,
    spared: AbstractSet[int] = frozenset(),
) -> tuple[list[RevocationAnswer], _Plan]:
    """Revoke at most `left` certificates, None for all, and none of those that are spared."""
    chosen = _choose(_look_up(connection, targets), targets)
    forged = _forged(connection, chosen)
    plan = _Plan({}, {})
    for at, (target, rows) in enumerate(zip(targets, chosen, strict=True)):
        new = {row.id for row in rows if row.recorded and (row.revoked_at is None or row.id in forged)}
        new -= plan.reasons.keys() | spared
        if left is not None and len(plan.reasons) + len(new) > left and new:
            plan.held[at] = new
        else:
            plan.reasons.update(dict.fromkeys(new, str(target.reason)))
    for intent_id in sorted(forged):  # they are written in this transaction, or were never made
        connection.execute(delete(revocations).where(revocations.c.intent_id == intent_id))
    if not plan.reasons:
        return [_answer(rows, set()) for rows in chosen], plan
    new = _insert(connection, plan.reasons, client, now)
    # Read again: another replica may have revoked some first, and then its reason counts.
    return [_answer(rows, new) for rows in _choose(_look_up(connection, targets), targets)], plan


def _forged(connection: Connection, chosen: Sequence[Sequence[Row[Any]]]) -> set[int]:
    """Return the certificates whose revocations no daemon wrote.

    Somebody wrote them into the database, to take them away again when a certificate was said to be revoked.
    """
    revoked = {row.id for rows in chosen for row in rows if row.recorded and row.revoked_at is not None}
    return revoked - proven_among(connection, Kind.REVOCATION, revoked)


def _look_up(connection: Connection, targets: Sequence[RevocationRequest]) -> Sequence[Row[Any]]:
    """Return the intents that targets may refer to, except voided ones."""
    query = (
        select(
            intents.c.id,
            serial_octets,
            intents.c.device_id,
            intents.c.profile,
            intents.c.intended_at,
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
    # One index each: a device's current certificates, and its superseded ones.
    for which, values in (
        (intents.c.serial.in_(keys), keys),
        (intents.c.device_id.in_(devices) & live, devices),
        (intents.c.device_id.in_(devices) & intents.c.superseded_at.is_not(None), devices),
    ):
        if values:
            found.update((row.id, row) for row in connection.execute(query.where(which)))
    return [found[intent_id] for intent_id in sorted(found)]


def _choose(rows: Sequence[Row[Any]], targets: Sequence[RevocationRequest]) -> list[list[Row[Any]]]:
    """Assign the found intents to the targets."""
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
    """Return the answer for a target. If several name a certificate, the first one revoked it."""
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
    """Write revocations, by intent id; return the ids of the new ones."""
    query = select(certificates.c.intent_id, certificates.c.der)
    written: set[int] = set()
    ids = sorted(reasons)  # in a fixed order, so that replicas rarely block each other
    for part in (ids[at : at + _ROWS] for at in range(0, len(ids), _ROWS)):
        ders = connection.execute(query.where(certificates.c.intent_id.in_(part)))
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
        return None  # it is in the complete CRL anyway


def note_urls(connection: Connection, issuer_key_id: bytes, urls: Sequence[str], *, complete: bool) -> None:
    """Record CRL URLs that certificates may contain; known URLs are not changed.

    Args:
        connection: in a transaction.
        issuer_key_id: the key identifier of the CA.
        urls: at least one.
        complete: whether they are URLs of the complete CRL, otherwise of shards.
    """
    rows = [{"issuer_key_id": issuer_key_id, "url": url, "complete": complete} for url in urls]
    for part in (rows[at : at + _ROWS] for at in range(0, len(rows), _ROWS)):
        new = _insert_new(connection, crl_urls).values(part).returning(crl_urls.c.id)
        note_entries(connection, Kind.CRL_URL, connection.execute(new).scalars().all())


def take_number(
    connection: Connection, issuer_key_id: bytes, above: int, earliest: int, now: int
) -> CrlNumber:
    """Take a number for CRLs that are about to be made, and choose their thisUpdate.

    The number is higher than all before. thisUpdate doesn't go back either, unless it would be in the future
    by the current clock: verifiers refuse a CRL that is not valid yet, and with it every device.

    Args:
        connection: in a transaction; others that take a number wait until it ends.
        issuer_key_id: the key identifier of the CA.
        above: a number that was used, even if the ledger doesn't know it.
        earliest: the lower bound of thisUpdate, in seconds since the Unix epoch.
        now: its upper bound.
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
    """Write CRLs of a CA, each replacing an older one of its scope, but never a newer one."""
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
    """Return an INSERT that ignores rows that exist."""
    return insert_into(table, connection.dialect).on_conflict_do_nothing()
