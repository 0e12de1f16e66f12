"""Does what a held act asks for, once it is confirmed. What can't be done now changes nothing."""

from __future__ import annotations

import json
from typing import NamedTuple

from sqlalchemy import Connection

from otahsm.access import Denied, Principal
from otahsm.errors import (
    ConflictError,
    InProgressError,
    LedgerTamperedError,
    NotFoundError,
    OtahsmError,
)
from otahsm.ledger.act_values import (
    Act,
    ActEvents,
    ActKind,
    ActState,
    Decided,
    Decider,
    ToDeny,
    ToReset,
    revocations_in,
    terms_in,
)
from otahsm.ledger.records import AuditEvent, Batch, Change
from otahsm.ledger.write import acts, batches, denials, outcomes, revocation

_REJECT = "Reject it with `otahsm approve reject`."


class _Effect(NamedTuple):
    """How many things were changed, and the audit event of that; or why nothing was."""

    done: int
    event: AuditEvent | None = None
    error: OtahsmError | None = None


def confirm(
    connection: Connection, act_id: int, digest: bytes, by: Decider, make_events: ActEvents, now: int
) -> Decided | OtahsmError:
    """Do what a held act asks for, and note who confirmed it. Confirmed twice, it is done once.

    Args:
        connection: in a transaction with the lock of events.
        act_id: the held act.
        digest: of the act that was looked at.
        by: who confirms it: a second principal, or one that broke the glass.
        make_events: makes the audit events of what it does.
        now: microseconds since the Unix epoch.
    """
    act = acts.open_act(connection, act_id, digest, ActState.CONFIRMED, now)
    if isinstance(act, OtahsmError):
        return act
    if act.decision is not None:
        return Decided(act, newer=_newer(connection, act, act.decided_at or now))
    if by.again:
        return LedgerTamperedError(f"the held act {act_id} was decided for a moment: it was changed")
    effect = _carry_out(connection, act, make_events, now)
    if effect.error is not None:
        return effect.error
    decided = acts.decide(connection, act, ActState.CONFIRMED, by, effect.done, now)
    events = decided.events if effect.event is None else (effect.event, *decided.events)
    return decided._replace(events=events, newer=_newer(connection, act, now))


def reject(connection: Connection, act_id: int, by: Decider, now: int) -> Decided | OtahsmError:
    """Note that a held act is rejected; arguments as for `confirm`."""
    act = acts.open_act(connection, act_id, None, ActState.REJECTED, now)
    if isinstance(act, OtahsmError):
        return act
    if act.decision is not None:
        return Decided(act)
    return acts.decide(connection, act, ActState.REJECTED, by, 0, now)


def _carry_out(connection: Connection, act: Act, make_events: ActEvents, now: int) -> _Effect:
    by = Principal(act.client, act.policy_client)
    match ActKind(act.kind):
        case ActKind.REVOCATION:
            return _revoke(connection, act, now)
        case ActKind.RESET:
            target = ToReset(**json.loads(act.payload))
            event_of = make_events.reset(by, target.device_id)
            return _effect(outcomes.reset(connection, target, None, now, event_of, act.requested_at), act)
        case ActKind.DENIAL:
            asked = ToDeny(**json.loads(act.payload))
            denied = Denied(asked.subject, asked.reason, act.client, now)
            denial = denials.deny(connection, denied, None, now, make_events.denied(by, denied))
            return _effect(denial, act)
        case ActKind.BATCH:
            return _create(connection, act, make_events, now)
        case ActKind.CLOSING:
            name = json.loads(act.payload)["name"]
            return _effect(batches.close(connection, name, None, now, make_events.closed(by)), act)


def _revoke(connection: Connection, act: Act, now: int) -> _Effect:
    targets = revocations_in(act.payload)
    done = revocation.revoke_confirmed(connection, targets, act.client, act.requested_at, now)
    if done is None:
        why = "a certificate of one of its devices is being issued; nothing was done"
        return _Effect(0, error=InProgressError(why, hint="Retry in a second."))
    return _Effect(done)


def _newer(connection: Connection, act: Act, until: int) -> tuple[str, ...]:
    if act.kind != ActKind.REVOCATION:
        return ()
    return revocation.newer_devices(connection, revocations_in(act.payload), act.requested_at, until)


def _create(connection: Connection, act: Act, make_events: ActEvents, now: int) -> _Effect:
    terms, by = terms_in(act.payload), Principal(act.client, act.policy_client)
    created = batches.create(connection, terms, act.client, None, now, make_events.created(by))
    if isinstance(created.result, Batch) and created.result.terms != terms:
        why = f"a different batch {terms.name} already exists; nothing was done"
        return _Effect(0, error=ConflictError(why, hint=_REJECT))
    return _effect(created, act)


def _effect(change: Change[object], act: Act) -> _Effect:
    if change.result is None:
        why = f"what the act {act.id} is about is not there any more; nothing was done"
        return _Effect(0, error=NotFoundError(why, hint=_REJECT))
    return _Effect(int(change.event is not None), change.event)
