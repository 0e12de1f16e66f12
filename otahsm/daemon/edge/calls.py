"""Bounds every call: how many a client has open, and how long its message may take to come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import grpc
import structlog

from otahsm.daemon.edge import limits
from otahsm.daemon.edge.answering import abort
from otahsm.daemon.edge.decoding import each_of
from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.errors import OtahsmError, RequestRefusedError, TimeOverError, TooManyCallsError

_OURS: Final = "/otahsm."

# The types upstream describe the handlers of a synchronous server.
_Handler = Any

_log = structlog.get_logger()


class OpenCalls:
    """Counts the open calls of each client.

    Args:
        limit: how many a client may have open.
        what: how they are called.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_more(self, client: str) -> Iterator[None]:
        """Count a call of a client's as open until the block ends.

        Raises:
            TooManyCallsError: the client has as many as it may.
        """
        if self._open[client] >= self._limit:
            raise TooManyCallsError(f"{client} has {self._limit} {self._what} open, which is all it may")
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


class BoundedCalls(grpc.aio.ServerInterceptor):
    """Counts calls and times messages; the first interceptor, since a call counts from its first frame.

    grpc.aio waits for the message of a unary call before any code of ours runs, for as long as the client
    likes. So unary calls are taken as streams of one message, which is what they are on the wire.
    """

    def __init__(self) -> None:
        self._calls = OpenCalls(limits.MAX_CALLS_A_CLIENT, "calls")
        self._watches = OpenCalls(limits.MAX_WATCHES_A_CLIENT, "calls about health and services")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler of any method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        ours = handler_call_details.method.startswith(_OURS)
        calls = self._calls if ours else self._watches
        kind = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        wrapped = _streaming if handler.response_streaming else _single
        return kind(
            wrapped(handler, calls),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _single(handler: _Handler, calls: OpenCalls) -> Any:
    async def answer(requests: AsyncIterator[Any], context: Context) -> Any:
        async with _counted(calls, context):
            return await handler.unary_unary(await _only(requests), context)

    return answer


def _streaming(handler: _Handler, calls: OpenCalls) -> Any:
    async def answer(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async with _counted(calls, context):
            if handler.request_streaming:
                responses = handler.stream_stream(requests, context)
            else:
                responses = handler.unary_stream(await _only(requests), context)
            async for response in each_of(responses):
                yield response

    return answer


@contextlib.asynccontextmanager
async def _counted(calls: OpenCalls, context: Context) -> AsyncIterator[None]:
    """Count a call while the block runs; answer what is wrong with it."""
    client = caller_of(context).identity
    try:
        with calls.one_more(client):
            yield
    except (RequestRefusedError, TimeOverError, TooManyCallsError) as error:
        refusal: OtahsmError = error
    else:
        return
    _log.warning("call.refused", client=client, reason=refusal.reason, message=refusal.message)
    await abort(context, refusal)


async def _only(requests: AsyncIterator[Any]) -> Any:
    """Wait for the message of a call that carries one."""
    try:
        async with asyncio.timeout(limits.MESSAGE_SECONDS):
            return await anext(requests)
    except TimeoutError:
        raise TimeOverError(f"the call's message did not come in {limits.MESSAGE_SECONDS:g} s") from None
    except StopAsyncIteration:
        raise RequestRefusedError("request", "the call came without a message") from None
