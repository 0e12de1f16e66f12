"""Held acts: what exceeded a quota, and waits for a second principal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from otahsm.client.calls import Calls, Service
from otahsm.client.moments import moment_of
from otahsm.v1 import approval_pb2 as pb
from otahsm.v1 import approval_pb2_grpc

_SECONDS: Final = 60.0
_PAGE: Final = 1000
_AT_ONCE: Final = 32  # ids per call, the daemon's limit


@dataclass(frozen=True, slots=True)
class HeldAct:
    """A held act. Times are in UTC.

    Attributes:
        kind: "revocation", "reset", "denial", "batch" or "closing"; "unspecified" if it can't be read.
        client: the client that asked for it; policy_client is its name in the policy.
        size: how many things it would have changed then.
        asked: a readable line for each thing that it asks for; if it was not asked for by its id, the first.
        asked_count: how many there are.
        state: "open", "confirmed", "rejected" or "lapsed".
        decided_by: the client that confirmed or rejected it; "" if nobody did.
        done: how many things it changed when it was confirmed.
        break_glass: user and reason, as a JSON object, if no second principal confirmed it; otherwise "".
        digest: what is confirmed.
        newer_devices: devices that keep a certificate which they got after it was asked for.
    """

    id: int
    kind: str
    client: str
    policy_client: str
    requested_at: datetime
    lapses_at: datetime
    size: int
    reason: str
    asked: tuple[str, ...]
    asked_count: int
    state: str
    decided_by: str
    decided_policy_client: str
    decided_at: datetime | None
    done: int
    break_glass: str
    digest: bytes
    newer_devices: tuple[str, ...] = ()

    @classmethod
    def from_message(cls, message: pb.HeldAct) -> HeldAct:
        """Return the value of a message."""
        decided = moment_of(message.decide_time) if message.HasField("decide_time") else None
        return cls(
            message.id,
            pb.ActKind.Name(message.kind).removeprefix("ACT_KIND_").lower(),
            message.client,
            message.policy_client,
            moment_of(message.request_time),
            moment_of(message.lapse_time),
            message.size,
            message.reason,
            tuple(message.asked),
            message.asked_count,
            pb.ActState.Name(message.state).removeprefix("ACT_STATE_").lower(),
            message.decided_by,
            message.decided_policy_client,
            decided,
            message.done_count,
            message.break_glass,
            message.digest,
            tuple(message.newer_devices),
        )


class ApprovalClient:
    """`Client.approvals`: lists held acts, confirms and rejects them.

    Every method raises OtahsmError: the daemon can't be reached or refuses.
    """

    def __init__(self, calls: Calls) -> None:
        self._service = Service(calls, approval_pb2_grpc.ApprovalServiceStub, _SECONDS)

    async def held(self, *, decided_too: bool = False) -> AsyncGenerator[HeldAct, None]:
        """Yield held acts, the oldest first: those that can be decided, or all."""
        request = pb.ListHeldActsRequest(page_size=_PAGE, include_decided=decided_too)
        while True:
            response = await self._service.call(lambda stub: stub.ListHeldActs, request)
            for message in response.acts:
                yield HeldAct.from_message(message)
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    async def named(self, ids: Iterable[int]) -> AsyncGenerator[HeldAct, None]:
        """Yield some held acts by their numbers, with everything that they ask for.

        Raises:
            NotFoundError: one does not exist.
        """
        source = iter(ids)
        while chunk := list(islice(source, _AT_ONCE)):
            request = pb.ListHeldActsRequest(ids=chunk)
            response = await self._service.call(lambda stub: stub.ListHeldActs, request)
            for message in response.acts:
                yield HeldAct.from_message(message)

    async def confirm(
        self, act_id: int, digest: bytes, *, glass: tuple[str, str, datetime, bytes] | None = None
    ) -> HeldAct:
        """Do what a held act asks for, to what was there then; confirmed again, it is the same.

        Args:
            act_id: its number.
            digest: of the act that was looked at.
            glass: user, reason, time and MAC, to confirm it without a second principal.

        Raises:
            NotFoundError: there is no such act, or what it is about is gone.
            NotAllowedError: this client may not, or the one that asked for it may not now.
            NotHeldError: it was rejected, or it lapsed.
            RequestRefusedError: the digest is not that of the act.
        """
        request = pb.ConfirmHeldActRequest(id=act_id, digest=digest)
        if glass is not None:
            user, reason, at, mac = glass
            request.break_glass.user, request.break_glass.reason = user, reason
            request.break_glass.time.FromDatetime(at)
            request.break_glass.mac = mac
        response = await self._service.call(lambda stub: stub.ConfirmHeldAct, request)
        return HeldAct.from_message(response.act)

    async def reject(self, act_id: int) -> HeldAct:
        """Reject a held act, so that it is never done.

        Raises:
            NotFoundError: there is no such act.
            NotAllowedError: this client may not.
            NotHeldError: it was confirmed, or it lapsed.
        """
        request = pb.RejectHeldActRequest(id=act_id)
        return HeldAct.from_message((await self._service.call(lambda stub: stub.RejectHeldAct, request)).act)
