"""What all clients of the daemon have in common: whom they ask, and that they ask again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc

from otahsm.client.backoff import Backoff
from otahsm.client.connection import ClientTls
from otahsm.client.replicas import Replicas
from otahsm.client.rpc_errors import from_rpc

_Answer = TypeVar("_Answer")


class DaemonClient:
    """A client of one daemon, or of several that share a ledger. Use it as an asynchronous context manager.

    Args:
        targets: the daemon's address, `host:port`, or the addresses of several. A host may be a name with
            several addresses. A daemon's TLS certificate must be for the host of its own address. Daemons
            that can't sign, or are gone, are left out; what they did not answer is asked elsewhere.
        tls: the operator CA, and this client's certificate and key.
        patience: for how many seconds without any progress is repeated what failed for a passing reason.

    Raises:
        ConfigError: a TLS file can't be read, or there is no target.
    """

    def __init__(self, targets: str | Sequence[str], tls: ClientTls, *, patience: float = 30.0) -> None:
        self._patience = patience
        self._replicas = Replicas([targets] if isinstance(targets, str) else targets, tls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replicas.close()

    async def _ask(
        self,
        call: Callable[[grpc.aio.Channel, float], Awaitable[_Answer]],
        *,
        seconds: float | None = None,
    ) -> _Answer:
        """Make a unary call, and if the daemon is unavailable, to another one or again.

        Args:
            call: makes it on a channel, with a time-out in seconds.
            seconds: the time-out; None: as long as there is patience.

        Raises:
            OtahsmError: what the daemon said, or that none could be reached.
        """
        deadline = time.monotonic() + self._patience
        backoff = Backoff()
        while True:
            target, channel = await self._replicas.choose()
            try:
                return await call(channel, max(self._patience, 1) if seconds is None else seconds)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise from_rpc(error, target) from None
            await backoff.pause()
