"""What an RPC failed with, as an error of ours. Here alone it is judged what was the daemon and what the way.

A daemon says itself what went wrong: that error comes back as it was (`otahsm.errors.status`). A status that
it did not write is gRPC's own: about the connection, or about a daemon that does not know the call.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from otahsm.errors import Code, DaemonUnavailableError, OtahsmError, UnknownError
from otahsm.errors.status import from_status

_DETAILS: Final = "grpc-status-details-bin"
# gRPC's own codes for a connection that broke in the middle of a call: a stream that HTTP/2 reset, or that
# the server ended while a message was being written.
_BROKEN: Final = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
_TLS_HINT: Final = (
    "If `otahsm serve` runs there, one side does not trust the other: check [client] ca, certificate and key"
    " here, and [tls] client_ca there."
)


def from_rpc(error: grpc.aio.AioRpcError, target: str) -> OtahsmError:
    """Return what an RPC to a target failed with: the daemon's own error, or what hindered the call."""
    said = _daemons_own(error)
    if said is not None:
        return said
    details = error.details() or "no details"
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            # A daemon that refuses a client's certificate just closes the connection.
            tls = "Socket closed" in details or "handshake" in details
            return DaemonUnavailableError(
                f"can't reach the daemon at {target}: {details}", hint=_TLS_HINT if tls else None
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DaemonUnavailableError(f"the daemon at {target} did not answer in time")
        case code if code in _BROKEN:
            return DaemonUnavailableError(f"the connection to the daemon at {target} broke: {details}")
        case code:
            message = f"the call to the daemon at {target} failed: {code.name}: {details}"
            return UnknownError(Code(code.value[0]), "", message)


def _daemons_own(error: grpc.aio.AioRpcError) -> OtahsmError | None:
    """Return the error that the daemon ended the call with; None if it wrote none."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return from_status(Status.FromString(value))
            except DecodeError:
                return None
    return None
