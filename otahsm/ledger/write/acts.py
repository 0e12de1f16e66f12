"""Counts acts, holds those that exceed a quota, and writes decisions: see `otahsm.ledger.act_values`.

Everything happens in the transaction that also does the act. It has the lock of events, so that two replicas
can't both use the last place of a quota.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, case, cast, func, insert, select, update

from otahsm.errors import (
    LedgerTamperedError,
    NotHeldError,
    OtahsmError,
    QuotaError,
)
from otahsm.ledger.act_values import (
    LIFE,
    MAX_HELD,
    Act,
    ActKind,
    ActState,
    Decided,
    Decider,
    Requester,
    Used,
    not_the_act,
    unknown_act,
)
from otahsm.ledger.read import act_page
from otahsm.ledger.records import Change
from otahsm.ledger.schema import acts
from otahsm.ledger.tree.log_entries import KINDS, Kind
from otahsm.ledger.tree.pending import note_entries, proven_among
from otahsm.ledger.write import events
from otahsm.templates import counted

_SECOND: Final = 1_000_000
_LAPSED: Final = "lapsed: nobody confirmed it within 24 hours"
_OF_DECISION: Final = {column.name for column in KINDS[Kind.ACT_DECIDED].columns} - {"id"}


def used(connection: Connection, kind: ActKind, by: Requester, now: int) -> Used:
    """Return how many acts of a kind were done in the last 24 hours.

    What a clock wrote that was ahead by more than a day does not count: it would close quotas until then.
    """
    mine = case((_is_of(by), acts.c.size), else_=0)
    query = select(_sum(mine), _sum(acts.c.size))
    query = query.where(acts.c.act == str(kind), ~acts.c.held, acts.c.size > 0, *act_page.recent(now, LIFE))
    own, fleet = connection.execute(query).one()
    return Used(own, fleet)


def note_done(connection: Connection, kind: ActKind, by: Requester, size: int, now: int) -> None:
    """Count what is done in this transaction."""
    if size:
        _write(connection, kind, by, size, now)


def hold(
    connection: Connection, kind: ActKind, by: Requester, size: int, payload: str, now: int
) -> Change[OtahsmError]:
    """Hold what exceeds a quota; the result is the error that says so.

    If the client has asked the same before, with the same certificate, it is the same act.
    """
    its = (acts.c.held, _is_of(by), *act_page.recent(now))
    query = select(acts.c.id).where(*its, acts.c.decision.is_(None), acts.c.act == str(kind))
    # A thief's certificate is denied, and with it what was asked with it: nobody could confirm that.
    query = query.where(acts.c.payload == payload, acts.c.certificate_sha256 == by.certificate_sha256)
    same = connection.execute(query.order_by(acts.c.id)).scalars().all()
    for act_id in sorted(proven_among(connection, Kind.ACT, same)):
        if before := act_page.find(connection, act_id):
            return Change(before.held(), None)
    # A client can reject its own, and would fill the ledger. What others reject must not stop it.
    own = acts.c.decision.is_(None) | acts.c.decided_policy_client.in_(sorted(by.names))
    most = select(func.count(), func.min(acts.c.requested_at)).where(*its, own)
    count, oldest = connection.execute(most).one()
    if count >= MAX_HELD:
        error = QuotaError(
            f"{counted(MAX_HELD, 'act')} of {by.name} were held within 24 hours",
            max(0, oldest + LIFE - now) / _SECOND,
            hint="Nothing was changed. Have another operator ask for it.",
        )
        return Change(error, None)
    act_id = _write(connection, kind, by, size, now, payload)
    act = act_page.find(connection, act_id)
    assert act is not None  # noqa: S101 - it was written
    return Change(act.held(), events.changed(connection, act, by.held).event)


def bound(
    connection: Connection, kind: ActKind, by: Requester | None, payload: str, now: int
) -> Change[OtahsmError] | None:
    """Count one act that is about to be done; if it exceeds a quota, hold it instead, and return that.

    Args:
        connection: in a transaction with the lock of events.
        kind: its kind.
        by: who asks for it; None if it was confirmed.
        payload: what is asked, if it is held.
        now: microseconds since the Unix epoch.
    """
    if by is None:
        return None
    if not used(connection, kind, by, now).left(by):
        return hold(connection, kind, by, 1, payload, now)
    note_done(connection, kind, by, 1, now)
    return None


def open_act(
    connection: Connection, act_id: int, digest: bytes | None, decision: ActState, now: int
) -> Act | OtahsmError:
    """Return a held act that can be decided, or has this decision already; otherwise why it can't be.

    Args:
        connection: in a transaction with the lock of events.
        act_id: the act.
        digest: of what was looked at; None for any.
        decision: what is decided.
        now: microseconds since the Unix epoch.
    """
    act = act_page.find(connection, act_id)
    if act is None:
        return unknown_act(act_id)
    if not proven_among(connection, Kind.ACT, [act_id]):
        return LedgerTamperedError(f"the held act {act_id} is not what was asked: it was changed")
    if digest is not None and digest != act.digest:
        return not_the_act(act_id)
    state = act.state(now)
    if state is decision and not proven_among(connection, Kind.ACT_DECIDED, [act_id]):
        return LedgerTamperedError(f"no daemon wrote the decision about the held act {act_id}")
    if state in (ActState.OPEN, decision):
        return act
    why = f"was {state}"
    if state is ActState.LAPSED:
        ahead = act.requested_at > now
        why = "was asked for at a time to come: a clock is wrong" if ahead else _LAPSED
    return NotHeldError(f"the act {act_id} {why}")


def decide(connection: Connection, act: Act, decision: ActState, by: Decider, done: int, now: int) -> Decided:
    """Write a decision, and its audit event."""
    decided = act._replace(
        decision=str(decision),
        decided_at=now,
        decided_by=by.principal.identity,
        decided_policy_client=by.principal.name,
        done=done,
        break_glass=None if by.break_glass is None else by.break_glass.text(),
    )
    values = {name: value for name, value in decided._asdict().items() if name in _OF_DECISION}
    connection.execute(update(acts).where(acts.c.id == act.id).values(values))
    note_entries(connection, Kind.ACT_DECIDED, [act.id])
    event = events.changed(connection, decided, by.event).event
    return Decided(decided, (event,) if event else ())


def _is_of(by: Requester) -> ColumnElement[bool]:
    """Select what a client did, by its names, or by its identity if its entry got another name."""
    return acts.c.policy_client.in_(sorted(by.names)) | (acts.c.client == by.identity)


def _sum(sizes: ColumnElement[int]) -> ColumnElement[int]:
    return cast(func.coalesce(func.sum(sizes), 0), BigInteger)


def _write(
    connection: Connection, kind: ActKind, by: Requester, size: int, now: int, payload: str = ""
) -> int:
    row = {
        "act": str(kind),
        "client": by.identity,
        "policy_client": by.name,
        "certificate_sha256": by.certificate_sha256,
        "spki_sha256": by.spki_sha256,
        "requested_at": now,
        "size": size,
        "held": bool(payload),
        "payload": payload,
    }
    act_id: int = connection.execute(insert(acts).values(row).returning(acts.c.id)).scalar_one()
    note_entries(connection, Kind.ACT, [act_id])
    return act_id
