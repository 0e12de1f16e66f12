"""Lets in only the calls that the policy allows, and ends those that it allows no more.

A call that is open when its client is cut off, when the policy changes or the client's time is over, ends
within a second with PERMISSION_DENIED. What it has handed to the cycle is looked at there once more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import grpc

from otahsm.access import CALLS, Open
from otahsm.authority import AccessControl, Caller
from otahsm.daemon.edge.answering import abort
from otahsm.daemon.edge.tls import Context, caller_of, chain_of
from otahsm.daemon.edge.trust import Trust
from otahsm.errors import NotAllowedError

_LOOK_SECONDS: Final = 1.0  # certificates end, and times, without anybody telling

_Handler = Any  # the types upstream describe the handlers of a synchronous server
# Called with who asked, for what, and why not; None: it was let in.
Decided = Callable[[Caller, str, NotAllowedError | None], None]


class _OpenCall(NamedTuple):
    """A call that was let in: whose it is, and which."""

    caller: Caller
    method: str


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every call of every service.

    Args:
        access: who may do what.
        trust: judges their certificates.
        decided: told of each decision.
    """

    def __init__(self, access: AccessControl, trust: Trust, decided: Decided) -> None:
        self._access = access
        self._trust = trust
        self._decided = decided
        self._open: dict[asyncio.Task[Any], _OpenCall] = {}
        self._ended: dict[asyncio.Task[Any], NotAllowedError] = {}
        access.on_change(self._look)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler of a method; one that does not exist is refused like one that nobody may call."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        # As `StrictDecoding` makes them: unary ones are coroutines, and all others generators.
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded_stream(handler.stream_stream, method),
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guarded_stream(handler.unary_stream, method),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(handler.unary_unary, method), response_serializer=handler.response_serializer
        )

    async def watch(self) -> None:
        """Look at the open calls now and then, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()

    def _guarded(self, behaviour: Any, method: str) -> Any:
        async def answer(request: Any, context: Context) -> Any:
            with await self._let_in(method, context):
                try:
                    return await behaviour(request, context)
                except asyncio.CancelledError:
                    await self._say_why(context)
                    raise

        return answer

    def _guarded_stream(self, behaviour: Any, method: str) -> Any:
        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            with await self._let_in(method, context):
                try:
                    async for response in behaviour(request, context):
                        yield response
                except asyncio.CancelledError:
                    await self._say_why(context)
                    raise

        return answer

    async def _let_in(self, method: str, context: Context) -> contextlib.AbstractContextManager[None]:
        caller = caller_of(context)
        self._trust.verify_new_client(caller.certificate_sha256, *chain_of(context))
        try:
            self._access.check_call(caller, method, datetime.now(UTC))
        except NotAllowedError as error:
            self._decided(caller, method, error)
            await abort(context, error)
        if CALLS.get(method) is not Open.TRUSTED:  # how a daemon is, is no secret, and asked every second
            self._decided(caller, method, None)
        return self._entered(_OpenCall(caller, method))

    @contextlib.contextmanager
    def _entered(self, call: _OpenCall) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - gRPC runs each call in a task of its own
        self._open[task] = call
        try:
            yield
        finally:
            self._open.pop(task, None)
            self._ended.pop(task, None)

    async def _say_why(self, context: Context) -> None:
        """End a call that this gate has ended with the reason; return if somebody else has cancelled it."""
        task = asyncio.current_task()
        if task is not None and (error := self._ended.pop(task, None)):
            task.uncancel()
            await abort(context, error)

    def _look(self) -> None:
        """End the calls that would not be let in any more."""
        now = datetime.now(UTC)
        for task, call in list(self._open.items()):
            try:
                self._access.check_call(call.caller, call.method, now)
            except NotAllowedError as error:
                del self._open[task]
                self._ended[task] = error
                self._decided(call.caller, call.method, error)
                task.cancel()
