"""One unary call: to the replica whose turn it is, and again while that fails for a passing reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import grpc

from otahsm.client.backoff import Backoff
from otahsm.client.replicas import Replicas
from otahsm.client.rpc_errors import from_rpc
from otahsm.errors import Code

_Stub = TypeVar("_Stub")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Calls(NamedTuple):
    """What all parts of a client call through.

    Attributes:
        replicas: whom to call.
        patience: for how many seconds without any progress is repeated what failed for a passing reason.
    """

    replicas: Replicas
    patience: float


class Service(Generic[_Stub]):
    """One service of the daemon.

    Args:
        calls: what its methods are called through.
        stub: the class of its stubs.
        seconds: how long a try of a call may take; None: as long as there is patience.
    """

    def __init__(
        self, calls: Calls, stub: Callable[[grpc.aio.Channel], _Stub], seconds: float | None = None
    ) -> None:
        self._calls = calls
        self._stub = stub
        self._timeout = max(calls.patience, 1) if seconds is None else seconds

    async def call(
        self,
        method: Callable[[_Stub], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
    ) -> _Response:
        """Call a method, and if the daemon is unavailable, another one's or again.

        Args:
            method: returns the method of a stub.
            request: what to send.

        Raises:
            OtahsmError: what the daemon failed with, or that none could be reached.
        """
        deadline = time.monotonic() + self._calls.patience
        backoff = Backoff()
        while True:
            target, channel = await self._calls.replicas.choose()
            try:
                return await method(self._stub(channel))(request, timeout=self._timeout)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error, target)
                if failure.code is not Code.UNAVAILABLE or time.monotonic() > deadline:
                    raise failure from None
            await backoff.pause()
