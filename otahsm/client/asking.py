"""Unary calls that may be repeated: whichever daemon answers first, for as long as there is patience."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from otahsm.client.backoff import Backoff
from otahsm.client.connection import explain
from otahsm.client.replicas import Replicas
from otahsm.errors import ConfigError, LedgerTamperedError, NotFoundError, OtahsmError

_Answer = TypeVar("_Answer")

_DETAILS: Final = "grpc-status-details-bin"
# What a daemon says that a command ends with in the same way; all else is about the daemon.
_SAME_HERE: Final[dict[str, type[OtahsmError]]] = {
    kind.reason: kind for kind in (ConfigError, LedgerTamperedError, NotFoundError)
}


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
                raise _said(error) or explain(error, target) from None
        await backoff.pause()


def _said(error: grpc.aio.AioRpcError) -> OtahsmError | None:
    """Return what the daemon said about itself, if that is one of our errors."""
    for name, value in error.trailing_metadata() or ():
        if name == _DETAILS and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info) and info.reason in _SAME_HERE:
                    return _SAME_HERE[info.reason](error.details() or "", hint=info.metadata["hint"])
    return None
