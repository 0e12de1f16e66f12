"""The changes that clients ask for: who asks, within which quotas, and the audit events that say so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from otahsm.access import AccessControl, Caller, Denied, Principal
from otahsm.errors import OtahsmError
from otahsm.ledger import Act, AuditEvent, Batch, BatchState, BreakGlass, Change, EventFactory, Requester
from otahsm.pki.serial import SerialNumber
from otahsm.system.clock import from_microseconds
from otahsm.transparency.audit import AuditLog, EventName

_Result = TypeVar("_Result")


class Changes:
    """Makes the audit events of changes. It implements `otahsm.ledger.ActEvents`.

    Args:
        access: knows the clients and their quotas.
        audit: records the events.
    """

    def __init__(self, access: AccessControl, audit: AuditLog) -> None:
        self._access = access
        self._audit = audit

    def requester(self, caller: Caller) -> Requester:
        """Return a caller as one who asks for what can't be undone."""
        policy = self._access.policy
        by, grant = policy.principal(caller), policy.of(caller)
        return Requester(
            by.identity,
            by.name,
            caller.certificate_sha256,
            caller.spki_sha256,
            frozenset({by.name}) if grant is None else grant.names,
            0 if grant is None else grant.acts_per_day,
            policy.acts_per_day,
            self.held(by),
        )

    def settle(self, change: Change[_Result | OtahsmError]) -> _Result:
        """Log the event of a change; return the result. Raises OtahsmError: the change is held."""
        self._audit.done(change.event)
        if isinstance(change.result, OtahsmError):
            raise change.result.as_value()
        return change.result

    def held(self, by: Principal) -> EventFactory[Act]:
        """Return what makes the event of a held act."""
        return lambda act: self._event(
            EventName.ACT_HELD, by, {"act": act.id, "kind": act.kind, "size": act.size}
        )

    def decided(self, name: EventName, by: Principal, glass: BreakGlass | None = None) -> EventFactory[Act]:
        """Return what makes the event of a decision, which names who asked and who decided."""

        def event_of(act: Act) -> AuditEvent:
            details: dict[str, int | str] = {
                "act": act.id,
                "kind": act.kind,
                "size": act.size,
                "done": act.done or 0,
                "requester": act.client,
                "requester_name": act.policy_client,
                "decider_name": by.name,
            }
            if glass is not None:
                details |= {"break_glass": 1, "host_user": glass.user, "reason": glass.reason}
            return self._event(name, by, details)

        return event_of

    def reset(self, by: Principal, device_id: str) -> EventFactory[SerialNumber]:
        """Return what makes the event of a reset."""
        return lambda serial: self._event(
            EventName.DEVICE_RESET, by, {"device": device_id, "superseded": serial.hex()}
        )

    def denied(self, by: Principal, denied: Denied) -> EventFactory[Denied]:
        """Return what makes the event of a denial."""
        details = {"subject": denied.subject, "reason": denied.reason}
        at = from_microseconds(denied.at)
        return lambda _: self._event(EventName.CLIENT_CUT_OFF, by, details, at)

    def created(self, by: Principal) -> EventFactory[Batch]:
        """Return what makes the event of a new batch."""
        return lambda batch: self._event(
            EventName.BATCH_CREATED,
            by,
            {"batch": batch.terms.name, "devices": batch.terms.device_count},
        )

    def closed(self, by: Principal) -> EventFactory[BatchState]:
        """Return what makes the event of a closed batch."""
        return lambda state: self._event(
            EventName.BATCH_CLOSED, by, {"batch": state.batch.terms.name, "issued": state.issued}
        )

    def _event(
        self, name: EventName, by: Principal, details: Mapping[str, int | str], at: datetime | None = None
    ) -> AuditEvent:
        return self._audit.event(name, by.identity, by.details(details), at=at)
