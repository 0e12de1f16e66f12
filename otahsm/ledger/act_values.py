"""Acts: what can't be undone, with the quotas that bound it. Pure values and arithmetic, without a database.

Revoking, resetting, denying, and ordering or closing a batch are counted per client and per fleet, over the
last 24 hours. What exceeds a quota is held: it has no effect until a second principal confirms it, and lapses
24 hours after it was asked for. A confirmed act is not counted: two wanted it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, Self

from otahsm.access import Denied, Principal
from otahsm.errors import HeldError, NotFoundError, RequestRefusedError
from otahsm.ledger.records import (
    SLACK,
    AuditEvent,
    Batch,
    BatchState,
    BatchTerms,
    EventFactory,
    RevocationRequest,
)
from otahsm.pki.serial import SerialNumber
from otahsm.system.clock import from_microseconds
from otahsm.templates import counted
from otahsm.tlog import canonical

LIFE: Final = 24 * 3600 * 1_000_000  # microseconds: of a held act, and of what counts in a quota
MAX_HELD: Final = 1000  # acts of a client that are held within LIFE


class ActKind(StrEnum):
    """The kinds of acts. Each has quotas of its own."""

    REVOCATION = "revocation"
    RESET = "reset"
    DENIAL = "denial"
    BATCH = "batch"
    CLOSING = "closing"

    @property
    def noun(self) -> str:
        """What one is called in messages."""
        return {ActKind.BATCH: "batch order", ActKind.CLOSING: "batch closing"}.get(self, self.value)


class ActState(StrEnum):
    """What became of a held act. LAPSED: nobody decided in time; it is never written, but computed."""

    OPEN = "open"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    LAPSED = "lapsed"


class Act(NamedTuple):
    """A held act, as it is in the ledger.

    Attributes:
        kind: an `ActKind`, unless somebody changed the row.
        client: the identity of the client that asked for it; policy_client is its name in the policy.
        certificate_sha256, spki_sha256: of its certificate, and of the key in it.
        requested_at, decided_at: microseconds since the Unix epoch, UTC.
        size: how many things it would have changed then.
        payload: what was asked, in canonical JSON.
        decision: "confirmed" or "rejected"; None if nobody has decided.
        decided_by: the identity of who decided; decided_policy_client is its name in the policy.
        done: how many things it changed when it was confirmed.
        break_glass: user and reason in canonical JSON, if no second principal confirmed it.
        digest: the hash of its leaf (RFC 9162, section 2.1.1); empty if somebody wrote other types.
    """

    id: int
    kind: str
    client: str
    policy_client: str
    certificate_sha256: bytes
    spki_sha256: bytes
    requested_at: int
    size: int
    payload: str
    decision: str | None = None
    decided_at: int | None = None
    decided_by: str | None = None
    decided_policy_client: str | None = None
    done: int | None = None
    break_glass: str | None = None
    digest: bytes = b""

    @property
    def lapses_at(self) -> int:
        """When it lapses, in microseconds since the Unix epoch."""
        return self.requested_at + LIFE

    def state(self, now: int) -> ActState:
        """Return what became of it; `now` is in microseconds since the Unix epoch."""
        if self.decision is not None:
            return ActState.CONFIRMED if self.decision == ActState.CONFIRMED else ActState.REJECTED
        return ActState.OPEN if now - LIFE < self.requested_at <= now + SLACK else ActState.LAPSED

    def held(self) -> HeldError:
        """Return the error that tells its client that it is held."""
        moment = from_microseconds(self.lapses_at).replace(microsecond=0)
        return HeldError(self.id, ActKind(self.kind).noun, moment)


class Requester(NamedTuple):
    """Who asks for an act, and how many it may do without another.

    Attributes:
        identity, name: of the client, as in `Principal`.
        certificate_sha256, spki_sha256: of its certificate, and of the key in it.
        names: its name in the policy, and those before: what they did counts too.
        per_day: how many acts of a kind it may do in 24 hours.
        fleet_per_day: how many all clients may do together.
        held: makes the audit event if the act is held.
    """

    identity: str
    name: str
    certificate_sha256: bytes
    spki_sha256: bytes
    names: frozenset[str]
    per_day: int
    fleet_per_day: int
    held: EventFactory[Act]


class Used(NamedTuple):
    """How many acts of a kind a client and all clients did in the last 24 hours."""

    own: int
    fleet: int

    def left(self, by: Requester) -> int:
        """Return how many more a client may do."""
        return max(0, min(by.per_day - self.own, by.fleet_per_day - self.fleet))


class BreakGlass(NamedTuple):
    """Confirming without a second principal: the user of the CA's host, why, and when (microseconds)."""

    user: str
    reason: str
    at: int

    def text(self) -> str:
        """Encode it for the ledger."""
        return canonical({"at": self.at, "reason": self.reason, "user": self.user})

    @classmethod
    def read(cls, text: str) -> Self:
        """Decode what `text` returned. Raises ValueError, TypeError: somebody changed it."""
        return cls(**json.loads(text))


class Decider(NamedTuple):
    """Who decides about a held act.

    Attributes:
        principal: the client.
        event: makes the event that says so.
        break_glass: why without a second principal.
        again: whether the act is decided already. Then it was not checked whether this client may decide.
    """

    principal: Principal
    event: EventFactory[Act]
    break_glass: BreakGlass | None = None
    again: bool = False


class Decided(NamedTuple):
    """A held act after a decision.

    Attributes:
        events: the audit events that were written with it.
        newer: the devices whose certificates were not revoked because they got them after it was asked for.
    """

    act: Act
    events: tuple[AuditEvent, ...] = ()
    newer: tuple[str, ...] = ()


class ActEvents(Protocol):
    """Makes the audit events of what a confirmed act does."""

    def reset(self, by: Principal, device_id: str) -> EventFactory[SerialNumber]:
        """Return what makes the event of a reset."""

    def denied(self, by: Principal, denied: Denied) -> EventFactory[Denied]:
        """Return what makes the event of a denial."""

    def created(self, by: Principal) -> EventFactory[Batch]:
        """Return what makes the event of a new batch."""

    def closed(self, by: Principal) -> EventFactory[BatchState]:
        """Return what makes the event of a closed batch."""


class ToReset(NamedTuple):
    """The device to reset, under a profile."""

    device_id: str
    profile: str


class ToDeny(NamedTuple):
    """The subject to deny, and why."""

    subject: str
    reason: str


def unknown_act(act_id: int) -> NotFoundError:
    """Return the error for a held act that doesn't exist."""
    hint = "`otahsm approve list --all` shows every one."
    return NotFoundError(f"there is no held act {act_id}", hint=hint)


def not_the_act(act_id: int) -> RequestRefusedError:
    """Return the error for a digest of another act, or of one that was changed since."""
    return RequestRefusedError(
        "digest",
        f"the digest is not that of the held act {act_id}",
        hint="Nothing was done. Look at it again with `otahsm approve list`, and confirm what it shows.",
    )


def revocation_payload(targets: Iterable[RevocationRequest]) -> str:
    """Return the payload of targets to revoke: as they were named."""
    return canonical({"targets": [_target(target) for target in targets]})


def revocations_in(payload: str) -> list[RevocationRequest]:
    """Return the targets of a payload. Raises ValueError, TypeError, KeyError: somebody changed it."""
    return [
        RevocationRequest(
            SerialNumber.from_key(bytes.fromhex(item["serial"])) if "serial" in item else None,
            item.get("device_id", ""),
            item["profile"],
            item["reason"],
        )
        for item in json.loads(payload)["targets"]
    ]


def terms_in(payload: str) -> BatchTerms:
    """Return the terms of a payload. Raises ValueError, TypeError: somebody changed it."""
    terms = BatchTerms(**json.loads(payload))
    return terms._replace(clients=tuple(terms.clients))


def asked_in(act: Act) -> tuple[str, Sequence[str]]:
    """Return the reason that a held act gives, and what it asks for, a line for each thing."""
    try:
        match act.kind:
            case ActKind.REVOCATION:
                targets = revocations_in(act.payload)
                return ", ".join(sorted({item.reason for item in targets})), list(_lines(targets))
            case ActKind.RESET:
                reset = ToReset(**json.loads(act.payload))
                return "", [f"device {reset.device_id} under the profile {reset.profile}"]
            case ActKind.DENIAL:
                denial = ToDeny(**json.loads(act.payload))
                return denial.reason, [denial.subject]
            case ActKind.BATCH:
                return "", [_order(terms_in(act.payload))]
            case ActKind.CLOSING:
                return "", [f"batch {json.loads(act.payload)['name']}"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        pass
    return "", ["unreadable: somebody changed it in the database"]


def _order(terms: BatchTerms) -> str:
    """Describe a batch by all its terms, so that no two look alike."""
    devices = counted(terms.device_count, "device")
    scheme = json.loads(terms.scheme)
    ids = " ".join(f"{name} {value}" for name, value in sorted(scheme.items()) if value and name != "kind")
    parts = [f"batch {terms.name} of {devices} under the profile {terms.profile}"]
    parts += [f"ids {scheme['kind']}{' with ' if ids else ''}{ids}"] if scheme else []
    if terms.deadline is not None:
        parts.append(f"until {from_microseconds(terms.deadline):%Y-%m-%d %H:%M:%S} UTC")
    parts += [f"for {', '.join(terms.clients)}"] if terms.clients else []
    return ", ".join(parts)


def _target(target: RevocationRequest) -> dict[str, str]:
    what = {"serial": target.serial.key.hex()} if target.serial else {"device_id": target.device_id}
    return what | {"profile": target.profile, "reason": str(target.reason)}


def _lines(targets: Collection[RevocationRequest]) -> Iterator[str]:
    differ = len({target.reason for target in targets}) > 1
    for target in targets:
        under = f" under the profile {target.profile}" if target.profile else ""
        what = f"serial number {target.serial.hex()}" if target.serial else f"device {target.device_id}"
        yield f"{what}{under}, for the reason {target.reason}" if differ else f"{what}{under}"
