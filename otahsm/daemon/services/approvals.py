"""`otahsm.v1.ApprovalService`."""

from __future__ import annotations

from otahsm.daemon.edge import Context, caller_of
from otahsm.daemon.services.service import Service
from otahsm.daemon.wire.approvals import glass_of, held_act, ids_of
from otahsm.daemon.wire.paging import numbered_page
from otahsm.v1 import approval_pb2 as pb
from otahsm.v1 import approval_pb2_grpc


class ApprovalService(Service, approval_pb2_grpc.ApprovalServiceServicer):
    """`otahsm.v1.ApprovalService`."""

    async def ListHeldActs(  # noqa: N802 - the name is the wire's
        self, request: pb.ListHeldActsRequest, context: Context
    ) -> pb.ListHeldActsResponse:
        """Return held acts: those with the requested ids, or a page."""
        approvals = self._authority.approvals
        if request.ids:
            named = await approvals.named(ids_of(request.ids))
            return pb.ListHeldActsResponse(acts=(held_act(held, full=True) for held in named))
        after, size = numbered_page(request.page_token, request.page_size)
        page = await approvals.listed(after, size, decided_too=request.include_decided)
        return pb.ListHeldActsResponse(
            acts=(held_act(held, full=False) for held in page.held),
            next_page_token=str(page.next_after or ""),
        )

    async def ConfirmHeldAct(  # noqa: N802
        self, request: pb.ConfirmHeldActRequest, context: Context
    ) -> pb.ConfirmHeldActResponse:
        """Confirm a held act."""
        (act_id,) = ids_of([request.id], "id")
        held = await self._authority.approvals.confirm(
            caller_of(context), act_id, request.digest, glass_of(request)
        )
        return pb.ConfirmHeldActResponse(act=held_act(held, full=True))

    async def RejectHeldAct(  # noqa: N802
        self, request: pb.RejectHeldActRequest, context: Context
    ) -> pb.RejectHeldActResponse:
        """Reject a held act."""
        (act_id,) = ids_of([request.id], "id")
        held = await self._authority.approvals.reject(caller_of(context), act_id)
        return pb.RejectHeldActResponse(act=held_act(held, full=True))
