"""Conversions of messages about held acts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from otahsm.authority import ActKind, ActState, BreakGlass, Glass, HeldAct
from otahsm.daemon.wire.ledger import microseconds_of
from otahsm.errors import RequestRefusedError
from otahsm.v1 import approval_pb2 as pb

MAX_IDS: Final = 32
_SHOWN: Final = 5
_MAX_ID: Final = (1 << 63) - 1  # of a row
_MAX_TEXT: Final = 512
_KINDS: Final = {str(kind): pb.ActKind.Value(f"ACT_KIND_{kind.name}") for kind in ActKind}
_STATES: Final = {state: pb.ActState.Value(f"ACT_STATE_{state.name}") for state in ActState}


def ids_of(ids: Collection[int], field: str = "ids") -> list[int]:
    """Return the ids of a request. Raises RequestRefusedError."""
    if len(ids) > MAX_IDS:
        raise RequestRefusedError(field, f"request at most {MAX_IDS} acts by id, not {len(ids)}")
    if any(not 0 < each <= _MAX_ID for each in ids):
        raise RequestRefusedError(field, "the number of a held act is from 1 to 9223372036854775807")
    return list(ids)


def glass_of(request: pb.ConfirmHeldActRequest) -> Glass | None:
    """Return how a request breaks the glass; None if it does not. Raises RequestRefusedError."""
    if not request.HasField("break_glass"):
        return None
    message = request.break_glass
    for field in ("user", "reason"):
        text = getattr(message, field)
        if not (0 < len(text) <= _MAX_TEXT and text.isprintable()):
            why = f"break_glass.{field} must have 1 to {_MAX_TEXT} printable characters"
            raise RequestRefusedError(f"break_glass.{field}", why)
    at = microseconds_of("break_glass.time", message.time)
    return Glass(BreakGlass(message.user, message.reason, at), message.mac)


def held_act(held: HeldAct, *, full: bool) -> pb.HeldAct:
    """Return a held act as a message, with all or only the first of what it asks for."""
    act = held.act
    message = pb.HeldAct(
        id=act.id,
        kind=_KINDS.get(act.kind, pb.ActKind.ACT_KIND_UNSPECIFIED),
        client=act.client,
        policy_client=act.policy_client,
        size=max(0, act.size),
        reason=held.reason,
        asked=held.asked if full else held.asked[:_SHOWN],
        asked_count=len(held.asked),
        state=_STATES[held.state],
        decided_by=act.decided_by or "",
        decided_policy_client=act.decided_policy_client or "",
        done_count=act.done or 0,
        break_glass=act.break_glass or "",
        digest=act.digest,
        newer_devices=held.newer,
    )
    message.request_time.FromMicroseconds(act.requested_at)
    message.lapse_time.FromMicroseconds(act.lapses_at)
    if act.decided_at is not None:
        message.decide_time.FromMicroseconds(act.decided_at)
    return message
