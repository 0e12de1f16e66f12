"""The gRPC server, which takes calls of methods with any name.

grpc.aio reads the name of a method that nobody has registered as UTF-8, in the loop that takes calls: one
call of a client whose path is no text ends that loop, and with it the server. Every method of ours is
registered, so a call that comes without one is answered here, and nobody reads its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from otahsm.daemon.edge.limits import MAX_CALLS, options

_UNKNOWN: Final = "the daemon has no such method"


class _Core(cygrpc.AioServer):  # type: ignore[misc] # no type information upstream
    """Takes calls; those of unknown methods never reach grpc.aio's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *rest: object) -> None:
        super().__init__(loop, *rest)
        self._event_loop = loop
        self._refusing: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is not None:
            return super()._make_request_call_future(method)
        return self._event_loop.create_task(self._refuse_all())

    async def _refuse_all(self) -> None:
        """Answer calls of unknown methods until the server stops, which `_request_call` raises."""
        while True:
            call = await self._request_call()
            context = cygrpc._ServicerContext(call, None, None, self._event_loop)  # noqa: SLF001
            answer = context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNKNOWN)
            task = self._event_loop.create_task(
                cygrpc._schedule_rpc_coro(answer, call, self._event_loop, "")  # noqa: SLF001
            )
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)


class _Server(grpc.aio._server.Server):  # type: ignore[name-defined,misc] # noqa: SLF001 - it has no other name
    """grpc.aio's server around `_Core`."""

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), tuple(interceptors), options(), MAX_CALLS)


def new_server(interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
    """Return a server within our limits."""
    server: grpc.aio.Server = _Server(interceptors)
    return server
