"""Translates RPC errors. Only this module distinguishes errors of the daemon from errors of the connection.

A daemon attaches its error to the status, and it is restored as it was (`otahsm.errors.status`). A status
without one is gRPC's own: about the connection, or from a daemon that does not have the method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from otahsm.errors import Code, DaemonUnavailableError, OtahsmError, UnknownError
from otahsm.errors.status import from_status

_DETAILS: Final = "grpc-status-details-bin"
# gRPC's codes for a connection that broke during a call: HTTP/2 reset the stream, or the server closed it
# while a message was being written.
_BROKEN: Final = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
# What gRPC says instead of the status of a call that ended while a message was being written.
_LOST: Final = "Internal error from Core"
_LATE_SECONDS: Final = 1.0  # in which the status then comes, if it has not
_LOOK_SECONDS: Final = 0.01
# Why a daemon can't be reached, by what gRPC's core writes, which names its own parts and addresses.
_REASONS: Final = {
    "handshake": "the TLS handshake failed",
    "Socket closed": "it closed the connection",
    "DNS resolution failed": "its name can't be resolved",
    "timeout": "it does not respond",
    _LOST: "it ended the call",
    **{
        words: words  # of the operating system
        for words in (
            "Connection refused",
            "Connection reset by peer",
            "Connection timed out",
            "Broken pipe",
            "No route to host",
            "Network is unreachable",
        )
    },
}
_TLS_HINT: Final = (
    "If `otahsm serve` runs there, one side does not trust the other: check [client] ca, certificate and key"
    " here, and [tls] client_ca there."
)


class Ending:
    """How a call ended to which messages are written.

    If it ends while one is being written, gRPC replaces the status that it has received, or will receive in a
    moment, with an error of its own: a client that is denied would not learn why. (grpc/grpc, issue 36066.)

    Args:
        call: has just begun.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        self._call = call
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(lambda _: self._note())

    async def of(self, error: grpc.aio.AioRpcError, target: str) -> OtahsmError | None:
        """Return why the call to a target ended, for the error that gRPC raised; None if it ended well."""
        seen = self._first or error
        for _ in range(round(_LATE_SECONDS / _LOOK_SECONDS)):
            if seen.details() != _LOST:
                break
            await asyncio.sleep(_LOOK_SECONDS)
            seen = self._status()
        return None if seen.code() is grpc.StatusCode.OK else from_rpc(seen, target)

    def _note(self) -> None:
        self._first = self._first or self._status()

    def _status(self) -> grpc.aio.AioRpcError:
        call = self._call
        code, details = _at_once(call.code()), _at_once(call.details())
        return grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), _at_once(call.trailing_metadata()) or grpc.aio.Metadata(), details
        )


def _at_once(answer: Awaitable[Any]) -> Any:
    """Return what a call that has ended says of its end, for which nobody has to wait."""
    try:
        answer.__await__().send(None)
    except StopIteration as returned:
        return returned.value
    raise AssertionError("a call that has ended has no status yet")


def from_rpc(error: grpc.aio.AioRpcError, target: str) -> OtahsmError:
    """Return the error of an RPC to a target: the daemon's own, or one about the connection."""
    own = _daemons_own(error)
    if own is not None:
        return own
    details = error.details() or "no details"
    reason = next((ours for theirs, ours in _REASONS.items() if theirs in details), details)
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            # A daemon that refuses a client's certificate just closes the connection.
            tls = "Socket closed" in details or "handshake" in details
            return DaemonUnavailableError(
                f"can't reach the daemon at {target}: {reason}", hint=_TLS_HINT if tls else None
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DaemonUnavailableError(f"the daemon at {target} did not respond in time")
        case code if code in _BROKEN:
            return DaemonUnavailableError(f"the connection to the daemon at {target} broke: {reason}")
        case code:
            message = f"the call to the daemon at {target} failed: {code.name}: {details}"
            return UnknownError(Code(code.value[0]), "", message)


def _daemons_own(error: grpc.aio.AioRpcError) -> OtahsmError | None:
    """Return the error that the daemon attached to the status; None if there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return from_status(Status.FromString(value))
            except DecodeError:
                return None
    return None
