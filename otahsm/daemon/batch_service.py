"""`otahsm.v1.BatchService`. Thin: what a batch may be is `otahsm.issuance.batches`'."""

from __future__ import annotations

from datetime import UTC, datetime

from otahsm.authority import BatchState, Caller, EventName, Issuance, NewBatch, Scheme, unknown_batch
from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.daemon.wire.paging import numbered_page
from otahsm.errors import RequestRefusedError
from otahsm.v1 import batch_pb2 as pb
from otahsm.v1 import batch_pb2_grpc


class BatchService(batch_pb2_grpc.BatchServiceServicer):
    """`otahsm.v1.BatchService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._batches = issuance.batches
        self._access = issuance.access
        self._audit = issuance.audit

    async def CreateBatch(  # noqa: N802 - the name is the wire's
        self, request: pb.CreateBatchRequest, context: Context
    ) -> pb.CreateBatchResponse:
        """Order a batch."""
        creator = caller_of(context).identity
        batch = await self._create(request.batch, creator)
        self._audit.note(
            EventName.BATCH_CREATED, creator, {"batch": batch.name, "devices": batch.device_count}
        )
        return pb.CreateBatchResponse(batch=batch)

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:  # noqa: N802
        """Return a batch."""
        state = await self._get(request.name, caller_of(context))
        return pb.GetBatchResponse(batch=_message(state))

    async def ListBatches(  # noqa: N802
        self, request: pb.ListBatchesRequest, context: Context
    ) -> pb.ListBatchesResponse:
        """Return a page of batches."""
        return await self._list(request, caller_of(context))

    async def CloseBatch(  # noqa: N802
        self, request: pb.CloseBatchRequest, context: Context
    ) -> pb.CloseBatchResponse:
        """Let nothing more be issued in a batch."""
        state = await self._batches.close(request.name)
        client = caller_of(context).identity
        self._audit.note(EventName.BATCH_CLOSED, client, {"batch": request.name, "issued": state.issued})
        return pb.CloseBatchResponse(batch=_message(state))

    async def _create(self, batch: pb.Batch, creator: str) -> pb.Batch:
        return _message(await self._batches.create(_order_of(batch), creator))

    async def _get(self, name: str, caller: Caller) -> BatchState:
        state = await self._batches.get(name)
        if not self._access.may_see_batch(caller, name, state.batch.terms.clients, datetime.now(UTC)):
            raise unknown_batch(name)
        return state

    async def _list(self, request: pb.ListBatchesRequest, caller: Caller) -> pb.ListBatchesResponse:
        after, size = numbered_page(request.page_token, request.page_size)
        states = await self._batches.page(after, size)
        now = datetime.now(UTC)
        response = pb.ListBatchesResponse(
            batches=[
                _message(state)
                for state in states
                if self._access.may_see_batch(caller, state.batch.terms.name, state.batch.terms.clients, now)
            ]
        )
        if len(states) == size:
            response.next_page_token = str(states[-1].batch.id)
        return response


def _order_of(batch: pb.Batch) -> NewBatch:
    scheme = batch.id_scheme
    return NewBatch(
        batch.name,
        batch.profile,
        batch.device_count,
        Scheme(
            scheme.kind,
            scheme.value,
            scheme.first_number,
            scheme.list_sha256,
            tuple(sorted(scheme.values.items())),
        ),
        _deadline(batch),
        tuple(batch.clients),
    )


def _deadline(batch: pb.Batch) -> datetime | None:
    if not batch.HasField("deadline_time"):
        return None
    try:
        return batch.deadline_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise RequestRefusedError("batch.deadline_time", "it is no time of the years 1 to 9999") from None


def _message(state: BatchState) -> pb.Batch:
    batch, terms = state.batch, state.batch.terms
    scheme = Scheme.read(terms.scheme)
    message = pb.Batch(
        name=terms.name,
        profile=terms.profile,
        device_count=terms.device_count,
        id_scheme=pb.IdScheme(
            kind=scheme.kind,
            value=scheme.value,
            first_number=scheme.first_number,
            list_sha256=scheme.list_sha256,
            values=dict(scheme.values),
        ),
        clients=terms.clients,
        creator=batch.creator,
        issued_count=state.issued,
        remaining_count=terms.device_count - batch.taken,
    )
    message.create_time.FromMicroseconds(batch.created_at)
    if terms.deadline is not None:
        message.deadline_time.FromMicroseconds(terms.deadline)
    if batch.closed_at is not None:
        message.close_time.FromMicroseconds(batch.closed_at)
    if state.first is not None and state.last is not None:
        message.first_serial_number = state.first.serial.octets
        message.last_serial_number = state.last.serial.octets
        message.first_issue_time.FromMicroseconds(state.first.recorded_at)
        message.last_issue_time.FromMicroseconds(state.last.recorded_at)
    return message
