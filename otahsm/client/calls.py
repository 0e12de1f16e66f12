"""One unary call: to the replica whose turn it is, and again while that fails for a passing reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from otahsm.client.backoff import Backoff
from otahsm.client.replicas import Replicas
from otahsm.client.rpc_errors import from_rpc
from otahsm.errors import Code

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Calls:
    """What all parts of a client call through.

    Args:
        replicas: whom to call.
        patience: for how many seconds without any progress is repeated what failed for a passing reason.
    """

    def __init__(self, replicas: Replicas, patience: float) -> None:
        self.replicas = replicas
        self.patience = patience

    async def unary(
        self,
        method: Callable[[grpc.aio.Channel], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        *,
        seconds: float | None = None,
    ) -> _Response:
        """Call a method, and if the daemon is unavailable, another one's or again.

        Args:
            method: returns the method of a stub on a channel.
            request: what to send.
            seconds: how long a try may take; None: as long as there is patience.

        Raises:
            OtahsmError: what the daemon failed with, or that none could be reached.
        """
        deadline = time.monotonic() + self.patience
        timeout = max(self.patience, 1) if seconds is None else seconds
        backoff = Backoff()
        while True:
            target, channel = await self.replicas.choose()
            try:
                return await method(channel)(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error, target)
                if failure.code is not Code.UNAVAILABLE or time.monotonic() > deadline:
                    raise failure from None
            await backoff.pause()
