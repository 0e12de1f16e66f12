"""Who asks for what can't be undone."""

from __future__ import annotations

import json
from typing import TypeVar

from otahsm.access import Denied, Principal
from otahsm.errors import OtahsmError
from otahsm.ledger import Act, AuditEvent, Batch, BatchState, BreakGlass, Decider, EventFactory, Requester
from otahsm.pki.serial import SerialNumber

_Result = TypeVar("_Result")


def by(identity: str = "cn:test", *, per_day: int = 10**9, fleet_per_day: int = 10**9) -> Requester:
    """Return a client that the policy knows by what follows the colon, by default without quotas."""
    name = identity.partition(":")[2]
    digest = bytes(32)
    return Requester(identity, name, digest, digest, frozenset({name}), per_day, fleet_per_day, held)


def deciding(identity: str = "cn:second", glass: BreakGlass | None = None) -> Decider:
    """Return who decides about a held act."""
    principal = Principal(identity, identity.partition(":")[2])

    def event_of(act: Act) -> AuditEvent:
        return AuditEvent(act.decided_at or 0, f"act.{act.decision}", identity, 1, f'{{"act":{act.id}}}')

    return Decider(principal, event_of, glass)


class PlainEvents:
    """The events of what confirmed acts do: `otahsm.ledger.ActEvents`."""

    def reset(self, by: Principal, device_id: str) -> EventFactory[SerialNumber]:
        return lambda serial: event(by, "device.reset", device=device_id, superseded=serial.hex())

    def denied(self, by: Principal, denied: Denied) -> EventFactory[Denied]:
        told = event(by, "client.cut_off", subject=denied.subject, reason=denied.reason)
        return lambda denied: told._replace(happened_at=denied.at)

    def created(self, by: Principal) -> EventFactory[Batch]:
        return lambda batch: event(by, "batch.created", batch=batch.terms.name)

    def closed(self, by: Principal) -> EventFactory[BatchState]:
        return lambda state: event(by, "batch.closed", batch=state.batch.terms.name)


def event(by: Principal, name: str, **details: str) -> AuditEvent:
    return AuditEvent(1, name, by.identity, 1, json.dumps(details, sort_keys=True, separators=(",", ":")))


def as_done(result: _Result | OtahsmError) -> _Result:
    """Return what was done, and not held."""
    assert not isinstance(result, OtahsmError), result
    return result


def held(act: Act) -> AuditEvent:
    details = {"act": act.id, "kind": act.kind, "size": act.size}
    encoded = json.dumps(details, sort_keys=True, separators=(",", ":"))
    return AuditEvent(act.requested_at, "act.held", act.client, 1, encoded)
