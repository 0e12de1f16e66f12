"""What one client can make a daemon hold: a number in `limits`, and given back when the client is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from hpack import Decoder
from hyperframe.frame import HeadersFrame

from otahsm.daemon.edge import METHODS, limits
from otahsm.pki.csr import MAX_CSR_BYTES
from otahsm.v1 import issuance_pb2

from support.attacks.attackers import GARBAGE
from support.attacks.raw_http2 import HEALTH, ISSUE, STREAM, WATCH, RawConnection, in_message
from support.devices import new_request
from support.harness import RunningDaemon, eventually, resident_bytes

MEBIBYTE: Final = limits.MEBIBYTE
ROOM: Final = 64 * MEBIBYTE  # for what is loaded with a first call, and what gRPC keeps
LIST: Final = "/otahsm.v1.LedgerService/ListCertificates"
RESOURCE_EXHAUSTED: Final = "8"
KEPT: Final = 64 * MEBIBYTE  # of the hundreds that were kept for ever
STREAMS: Final = int(os.environ.get("OTAHSM_TEST_STREAMS", "12"))  # `make soak` has all 64
WATCHES: Final = 96
# Any message: a field that none has, of as many octets as a message may have.
LARGEST: Final = b"\xc2\x3e\xf8\xff\x7f" + bytes(limits.MAX_MESSAGE_BYTES - 8)


CSRS: Final = limits.MAX_MESSAGE_BYTES // (MAX_CSR_BYTES + 64)  # the largest ones in a message


def garbage() -> bytes:
    """Make the largest message of the largest CSRs, all of which are refused."""
    return issuance_pb2.IssueCertificatesRequest(
        requests=[
            issuance_pb2.CertificateRequest(request_id=f"r{number}", csr=b"\x30" * MAX_CSR_BYTES)
            for number in range(CSRS)
        ]
    ).SerializeToString()


def long_ids() -> bytes:
    """Make a message with one request id, which is as long as a message can be."""
    request_id = "a" * (limits.MAX_MESSAGE_BYTES - 64)
    request = issuance_pb2.CertificateRequest(request_id=request_id, csr=b"\x30")
    return issuance_pb2.IssueCertificatesRequest(requests=[request]).SerializeToString()


@contextlib.contextmanager
def costing(daemon: RunningDaemon, at_most: int) -> Iterator[None]:
    """Check what a block costs the daemon at its peak, and that it is given back after it."""
    pid = daemon.process.pid
    before = resident_bytes(pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    yield
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before
    assert peak < at_most, f"{peak // MEBIBYTE} MiB, of {at_most // MEBIBYTE}"

    def left() -> int:
        return (resident_bytes(pid) - before) // MEBIBYTE

    eventually(lambda: left() < KEPT // MEBIBYTE, lambda: f"{left()} MiB are kept")


@contextlib.asynccontextmanager
async def channel_to(daemon: RunningDaemon) -> AsyncIterator[Any]:
    tls = daemon.fleet.tls
    credentials = grpc.ssl_channel_credentials(
        tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(daemon.address, credentials) as channel:
        yield channel


@pytest.fixture
async def attacked(shared_daemon: RunningDaemon) -> RunningDaemon:
    shared_daemon.wait_for("signer.ready", count=2)
    async with shared_daemon.client() as client:
        await client.issuance.issue_one(new_request().csr)
    async with channel_to(shared_daemon) as channel:
        await channel.unary_unary(HEALTH)(b"")
    return shared_daemon


async def test_watches_of_large_names_cost_little_and_nothing_when_their_client_is_gone(
    attacked: RunningDaemon,
) -> None:
    receiving = limits.MAX_RECEIVING_A_CLIENT * limits.MAX_MESSAGE_BYTES
    with costing(attacked, 3 * receiving + ROOM):
        async with channel_to(attacked) as channel:
            watch = channel.unary_stream(WATCH)
            ends = await asyncio.gather(*(first_of(watch(LARGEST)) for _ in range(WATCHES)))
    assert {code for code, _ in ends} == {grpc.StatusCode.INVALID_ARGUMENT}


async def first_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Wait for the first response of a stream, or its end."""
    try:
        response = await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, repr(response)


async def test_every_method_refuses_what_is_larger_than_it_needs_before_it_is_kept(
    attacked: RunningDaemon,
) -> None:
    methods = [method for method in METHODS.values() if method.path != STREAM]
    with costing(attacked, limits.MAX_RECEIVING_A_CLIENT * 3 * limits.MAX_MESSAGE_BYTES + ROOM):
        async with channel_to(attacked) as channel:
            calls = [channel.unary_stream(method.path)(LARGEST) for method in methods]
            ends = await asyncio.gather(*(first_of(call) for call in calls))
    for method, (code, message) in zip(methods, ends, strict=True):
        assert code is grpc.StatusCode.INVALID_ARGUMENT, method
        assert f"{method.name} takes at most {method.most}" in message


@pytest.mark.parametrize("make", [garbage, long_ids])
async def test_streams_of_garbage_whose_results_are_not_read_cost_what_the_limits_say(
    attacked: RunningDaemon, make: Callable[[], bytes]
) -> None:
    bound = STREAMS * limits.MAX_CLIENT_BYTES // limits.MAX_CALLS_A_CLIENT + ROOM
    message = make()
    with costing(attacked, bound):
        async with channel_to(attacked) as channel:
            open_stream = channel.stream_stream(STREAM)
            calls = [open_stream() for _ in range(STREAMS)]
            # As many as are read although no result is.
            count = limits.MAX_IN_HAND // CSRS
            await asyncio.gather(*(write_all(call, message, count) for call in calls))


def write_all(call: Any, message: bytes, count: int) -> Awaitable[None]:
    async def write() -> None:
        for _ in range(count):
            await call.write(message)

    return write()


def test_results_of_single_calls_that_are_not_read_are_calls_that_are_open(attacked: RunningDaemon) -> None:
    with RawConnection(attacked.address, attacked.fleet.tls, window=0) as connection:
        for _ in range(limits.MAX_CALLS_A_CLIENT + 1):
            connection.call(LIST, in_message(b""))
        assert first_status(connection) == RESOURCE_EXHAUSTED

    def has_its_calls_again() -> bool:
        with RawConnection(attacked.address, attacked.fleet.tls) as connection:
            connection.call(ISSUE, GARBAGE)
            return first_status(connection) != RESOURCE_EXHAUSTED

    eventually(has_its_calls_again, "calls of a client that is gone are still counted")


def first_status(connection: RawConnection) -> str:
    """Return the status of the first call that ends."""
    decoder = Decoder()
    for frame in connection.frames():
        if isinstance(frame, HeadersFrame):
            fields = {str(name): str(value) for name, value in decoder.decode(frame.data)}
            if "grpc-status" in fields:
                return fields["grpc-status"]
    raise ConnectionError("the daemon has closed the connection")
