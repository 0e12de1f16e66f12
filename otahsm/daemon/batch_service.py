"""`otahsm.v1.BatchService`. Thin: what a batch may be is `otahsm.issuance.batches`'."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog

from otahsm.daemon.answering import answered
from otahsm.daemon.tls import Context, caller_of
from otahsm.errors import RequestRefusedError
from otahsm.issuance import BatchState, Issuance, NewBatch, Scheme
from otahsm.v1 import batch_pb2 as pb
from otahsm.v1 import batch_pb2_grpc

_PAGE: Final = 100
_MAX_PAGE: Final = 1000
_MAX_TOKEN: Final = 18  # digits
_FAULT: Final = "batch.fault"

_log = structlog.get_logger()


class BatchService(batch_pb2_grpc.BatchServiceServicer):
    """`otahsm.v1.BatchService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._batches = issuance.batches

    async def CreateBatch(  # noqa: N802 - the name is the wire's
        self, request: pb.CreateBatchRequest, context: Context
    ) -> pb.CreateBatchResponse:
        """Order a batch."""
        creator = caller_of(context).identity
        batch = await answered(self._create(request.batch, creator), context, _FAULT)
        _log.info("batch.created", client=creator, batch=batch.name, devices=batch.device_count)
        return pb.CreateBatchResponse(batch=batch)

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:  # noqa: N802
        """Return a batch."""
        state = await answered(self._batches.get(request.name), context, _FAULT)
        return pb.GetBatchResponse(batch=_message(state))

    async def ListBatches(  # noqa: N802
        self, request: pb.ListBatchesRequest, context: Context
    ) -> pb.ListBatchesResponse:
        """Return a page of batches."""
        return await answered(self._list(request), context, _FAULT)

    async def CloseBatch(  # noqa: N802
        self, request: pb.CloseBatchRequest, context: Context
    ) -> pb.CloseBatchResponse:
        """Let nothing more be issued in a batch."""
        state = await answered(self._batches.close(request.name), context, _FAULT)
        client = caller_of(context).identity
        _log.warning("batch.closed", client=client, batch=request.name, issued=state.issued)
        return pb.CloseBatchResponse(batch=_message(state))

    async def _create(self, batch: pb.Batch, creator: str) -> pb.Batch:
        return _message(await self._batches.create(_order_of(batch), creator))

    async def _list(self, request: pb.ListBatchesRequest) -> pb.ListBatchesResponse:
        after, size = _page_of(request)
        states = await self._batches.page(after, size)
        response = pb.ListBatchesResponse(batches=map(_message, states))
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


def _page_of(request: pb.ListBatchesRequest) -> tuple[int, int]:
    """Read after which batch a page begins, and how long it is."""
    token = request.page_token
    if token and not (token.isascii() and token.isdecimal() and len(token) <= _MAX_TOKEN):
        raise RequestRefusedError("page_token", "it is no page token of this call")
    if request.page_size < 0:
        raise RequestRefusedError("page_size", "a page has no negative size")
    return int(token or 0), min(request.page_size or _PAGE, _MAX_PAGE)


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
        message.first_serial_number = state.first.serial.lstrip(b"\0")
        message.last_serial_number = state.last.serial.lstrip(b"\0")
        message.first_issue_time.FromMicroseconds(state.first.recorded_at)
        message.last_issue_time.FromMicroseconds(state.last.recorded_at)
    return message
