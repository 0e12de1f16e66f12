"""`otahsm.v1.BatchService`."""

from __future__ import annotations

from otahsm.daemon.edge import Context, caller_of
from otahsm.daemon.services.service import Service
from otahsm.daemon.wire.batches import batch_message, new_batch_of
from otahsm.daemon.wire.paging import numbered_page
from otahsm.v1 import batch_pb2 as pb
from otahsm.v1 import batch_pb2_grpc


class BatchService(Service, batch_pb2_grpc.BatchServiceServicer):
    """`otahsm.v1.BatchService`."""

    async def CreateBatch(  # noqa: N802 - the name is the wire's
        self, request: pb.CreateBatchRequest, context: Context
    ) -> pb.CreateBatchResponse:
        """Create a batch."""
        state = await self._authority.create_batch(caller_of(context), new_batch_of(request.batch))
        return pb.CreateBatchResponse(batch=batch_message(state))

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:  # noqa: N802
        """Return a batch."""
        state = await self._authority.get_batch(caller_of(context), request.name)
        return pb.GetBatchResponse(batch=batch_message(state))

    async def ListBatches(  # noqa: N802
        self, request: pb.ListBatchesRequest, context: Context
    ) -> pb.ListBatchesResponse:
        """Return a page of batches."""
        after, size = numbered_page(request.page_token, request.page_size)
        states, next_after = await self._authority.list_batches(
            caller_of(context), after, size, newest_first=request.newest_first
        )
        return pb.ListBatchesResponse(
            batches=map(batch_message, states), next_page_token=str(next_after or "")
        )

    async def CloseBatch(  # noqa: N802
        self, request: pb.CloseBatchRequest, context: Context
    ) -> pb.CloseBatchResponse:
        """Close a batch."""
        state = await self._authority.close_batch(caller_of(context), request.name)
        return pb.CloseBatchResponse(batch=batch_message(state))
