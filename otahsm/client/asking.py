"""Unary calls that may be repeated: whichever daemon answers first, for as long as there is patience."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from otahsm.client.backoff import Backoff
from otahsm.client.connection import explain
from otahsm.client.replicas import Replicas

_Answer = TypeVar("_Answer")


async def ask_patiently(
    replicas: Replicas,
    ask: Callable[[grpc.aio.Channel, float], Awaitable[_Answer]],
    patience: float,
) -> _Answer:
    """Ask a daemon, and if it is unavailable, another one or again.

    Args:
        replicas: whom to ask.
        ask: makes the call on a channel, with a time-out in seconds.
        patience: for how many seconds to go on.

    Raises:
        OtahsmError: what the daemon said, or that none could be reached.
    """
    deadline = time.monotonic() + patience
    backoff = Backoff()
    while True:
        target, channel = await replicas.choose()
        try:
            return await ask(channel, max(patience, 1))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise explain(error, target) from None
        await backoff.pause()
