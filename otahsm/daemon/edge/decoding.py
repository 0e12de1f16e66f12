"""Answers bytes that are no protobuf message as any other bad request: grpc.aio would name a Python class."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from otahsm.daemon.edge.answering import errors_answered
from otahsm.daemon.edge.tls import Context
from otahsm.errors import RequestRefusedError

# The types upstream describe the handlers of a synchronous server.
_Handler = Any


class StrictDecoding(grpc.aio.ServerInterceptor):
    """Decodes messages inside the call, and answers what its handler raises."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler of any method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _stream(handler, method), response_serializer=handler.response_serializer
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _one_for_many(handler, method), response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler, method), response_serializer=handler.response_serializer
        )


async def each_of(responses: AsyncIterator[Any] | Awaitable[None]) -> AsyncIterator[Any]:
    """Yield the responses of a call; a handler that writes by itself, as the health service's, has none."""
    if isinstance(responses, Awaitable):
        await responses
        return
    async for response in responses:
        yield response


def _unary(handler: _Handler, method: str) -> Any:
    async def answer(request: bytes, context: Context) -> Any:
        message = _decoded(handler.request_deserializer, request)
        async with errors_answered(method, context):
            return await handler.unary_unary(message, context)

    return answer


def _one_for_many(handler: _Handler, method: str) -> Any:
    async def answer(request: bytes, context: Context) -> AsyncIterator[Any]:
        message = _decoded(handler.request_deserializer, request)
        async with errors_answered(method, context):
            async for response in each_of(handler.unary_stream(message, context)):
                yield response

    return answer


def _stream(handler: _Handler, method: str) -> Any:
    async def answer(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        messages = (_decoded(handler.request_deserializer, request) async for request in requests)
        async with errors_answered(method, context):
            async for response in each_of(handler.stream_stream(messages, context)):
                yield response

    return answer


def _decoded(decode: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return decode(request)
    except DecodeError:
        raise RequestRefusedError("request", "the message is not well-formed protobuf") from None
