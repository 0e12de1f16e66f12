"""Answers bytes that are no protobuf message as any other bad request: grpc.aio would name a Python class."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from otahsm.daemon.tls import Context
from otahsm.daemon.wire import abort
from otahsm.errors import RequestRefusedError

_OURS: Final = "/otahsm."

# The types upstream describe the handlers of a synchronous server.
_Handler = Any


class StrictDecoding(grpc.aio.ServerInterceptor):
    """Decodes the messages of our services inside the call, where an error can be answered."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler of a method of ours."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return handler
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _stream(handler), response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler), response_serializer=handler.response_serializer
        )


def _unary(handler: _Handler) -> Any:
    async def answer(request: bytes, context: Context) -> Any:
        try:
            message = _decoded(handler.request_deserializer, request)
        except RequestRefusedError as error:
            await abort(context, error)
        return await handler.unary_unary(message, context)

    return answer


def _stream(handler: _Handler) -> Any:
    async def answer(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        messages = (_decoded(handler.request_deserializer, request) async for request in requests)
        async for response in handler.stream_stream(messages, context):
            yield response

    return answer


def _decoded(decode: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return decode(request)
    except DecodeError:
        raise RequestRefusedError("request", "the message is not well-formed protobuf") from None
