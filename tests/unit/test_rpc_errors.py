"""What an RPC failed with, to a client: the daemon's own words, or a connection that broke."""

from __future__ import annotations

import grpc
import pytest

from otahsm.client.rpc_errors import from_rpc
from otahsm.errors import Code, DaemonUnavailableError, OtahsmError, ShuttingDownError, UnknownError
from otahsm.errors.status import to_status


def failed(code: grpc.StatusCode, error: OtahsmError | None = None) -> grpc.aio.AioRpcError:
    """Return what a call ends with: gRPC's own end, or an error that the daemon wrote."""
    details = () if error is None else (("grpc-status-details-bin", to_status(error).SerializeToString()),)
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*details), "Internal error from Core"
    )


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INTERNAL,  # also what gRPC's client makes of a write that the end of a call overtook
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ],
)
def test_a_call_that_was_cut_is_a_daemon_that_is_unavailable_and_may_be_asked_again(
    code: grpc.StatusCode,
) -> None:
    failure = from_rpc(failed(code), "there:1")
    assert type(failure) is DaemonUnavailableError
    assert failure.code is Code.UNAVAILABLE
    assert "there:1" in failure.message


def test_what_the_daemon_says_itself_is_not_taken_for_a_broken_connection() -> None:
    assert (
        type(from_rpc(failed(grpc.StatusCode.UNAVAILABLE, ShuttingDownError("x")), "")) is ShuttingDownError
    )
    assert type(from_rpc(failed(grpc.StatusCode.INTERNAL, OtahsmError("x")), "")) is OtahsmError


def test_a_daemon_that_does_not_know_the_call_is_named_with_grpcs_code() -> None:
    failure = from_rpc(failed(grpc.StatusCode.UNIMPLEMENTED), "there:1")
    assert type(failure) is UnknownError
    assert "the call to the daemon at there:1 failed: UNIMPLEMENTED" in failure.message
