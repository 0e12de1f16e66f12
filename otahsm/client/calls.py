"""Unary calls, which are retried on the next replica after temporary failures."""

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
    """The settings for the calls of all parts of a client.

    Attributes:
        replicas: the daemons to call.
        patience: for how many seconds without any progress temporary failures are retried.
    """

    replicas: Replicas
    patience: float


class Service(Generic[_Stub]):
    """One service of the daemon.

    Args:
        calls: the client's settings.
        stub: the class of its stubs.
        seconds: the timeout of each try; None for the client's patience.
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
        """Call a method, and retry while the daemon is unavailable.

        Args:
            method: returns the method of a stub.
            request: the request.

        Raises:
            OtahsmError: the error of the daemon, or none can be reached.
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
