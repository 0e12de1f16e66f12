"""Clients that take their time: how long a daemon waits for each, and that ending a stream loses nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hpack import Decoder
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from otahsm.client import CertificateRequest, IssuedCertificate
from otahsm.pki.csr import derive_request_id
from otahsm.v1 import issuance_pb2

from support.attacks.attackers import Slowloris, client_hello, is_open
from support.attacks.impatient import command
from support.attacks.raw_http2 import (
    ISSUE,
    PREFACE,
    SECONDS,
    STREAM,
    RawConnection,
    connect,
    context_of,
    in_message,
)
from support.devices import new_request, new_requests
from support.harness import Fleet, RunningDaemon, eventually, running
from support.ledger_reader import certificates

UNAVAILABLE = "14"
CONNECTIONS = 20
PATIENCE = command(
    HANDSHAKE_SECONDS=1,
    IDLE_CONNECTION_SECONDS=3,
    KEEPALIVE_SECONDS=2,
    KEEPALIVE_TIMEOUT_SECONDS=2,
    MESSAGE_SECONDS=1,
    IDLE_STREAM_SECONDS=1,
    STALLED_STREAM_SECONDS=2,
    MAX_CONNECTIONS=CONNECTIONS,
)


@pytest.fixture(scope="module")
def impatient(make_fleet: Callable[[], Fleet]) -> Iterator[RunningDaemon]:
    with running(make_fleet(), within=PATIENCE) as daemon:
        daemon.wait_for("signer.ready", count=2)
        yield daemon


def count(daemon: RunningDaemon, event: str) -> int:
    return sum(said["event"] == event for said in daemon.events)


def nothing(connection: socket.socket, _: ssl.SSLContext) -> socket.socket:
    return connection


def a_client_hello(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    connection.sendall(client_hello(context))
    return connection


def tls(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    return context.wrap_socket(connection)


def a_preface(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    secured = context.wrap_socket(connection)
    secured.sendall(PREFACE)
    return secured


def half_a_frame(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    secured = context.wrap_socket(connection)
    secured.sendall(PREFACE + SettingsFrame(0, {}).serialize()[:5])
    return secured


@pytest.mark.parametrize("part", [nothing, a_client_hello, tls, a_preface, half_a_frame])
def test_a_connection_that_is_not_made_in_time_is_closed(
    impatient: RunningDaemon, part: Callable[[socket.socket, ssl.SSLContext], socket.socket]
) -> None:
    with part(connect(impatient.address), context_of(impatient.fleet.tls)) as connection:
        eventually(lambda: not is_open(connection), "half a connection is kept")


def test_half_open_connections_make_room_for_an_honest_client_when_their_time_is_over(
    impatient: RunningDaemon,
) -> None:
    half_open = [connect(impatient.address) for _ in range(2 * CONNECTIONS)]

    async def issue() -> object:
        async with impatient.client(patience=SECONDS) as client:
            return await client.issuance.issue_one(new_request().csr)

    assert isinstance(asyncio.run(issue()), IssuedCertificate)
    for connection in half_open:
        connection.close()


def connected(daemon: RunningDaemon) -> RawConnection:
    return RawConnection(daemon.address, daemon.fleet.tls)


def last_words(connection: RawConnection, *, answer_pings: bool) -> bytes:
    """Read until the daemon hangs up; return why, as its last GOAWAY says."""
    said = b""
    for frame in connection.frames():
        if isinstance(frame, GoAwayFrame):
            said = bytes(frame.additional_data)
        if isinstance(frame, PingFrame) and "ACK" not in frame.flags and answer_pings:
            connection.try_to_send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
    return said


def test_a_connection_without_a_call_is_closed(impatient: RunningDaemon) -> None:
    with connected(impatient) as connection:
        assert last_words(connection, answer_pings=True) == b"connection idle"


def test_a_connection_whose_only_call_never_gets_its_headers_is_closed(impatient: RunningDaemon) -> None:
    with connected(impatient) as connection:
        connection.socket.sendall(connection.headers().serialize()[:20])
        assert last_words(connection, answer_pings=True) == b"connection idle"


def test_a_client_that_answers_no_ping_is_gone(impatient: RunningDaemon) -> None:
    with connected(impatient) as connection:
        connection.send(connection.headers("/grpc.health.v1.Health/Watch"))
        connection.write(1, in_message(b""))
        assert last_words(connection, answer_pings=False) == b"ping_timeout"


def test_a_client_that_acknowledges_no_settings_is_sent_away(impatient: RunningDaemon) -> None:
    with RawConnection(impatient.address, impatient.fleet.tls, acknowledge=False) as connection:
        connection.call("/grpc.health.v1.Health/Watch", in_message(b""))
        assert b"ettings" in last_words(connection, answer_pings=True)


def statuses(connection: RawConnection) -> Iterator[dict[str, str]]:
    """Yield the trailers of calls as they end."""
    decoder = Decoder()
    for frame in connection.frames():
        if isinstance(frame, HeadersFrame):
            fields = {str(name): str(value) for name, value in decoder.decode(frame.data)}
            if "grpc-status" in fields:
                yield fields
        if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            connection.try_to_send(PingFrame(0, frame.opaque_data, flags=["ACK"]))


def test_a_call_whose_message_does_not_come_is_ended(impatient: RunningDaemon) -> None:
    with connected(impatient) as connection:
        connection.send(connection.headers(ISSUE))
        said = next(statuses(connection))
    assert said["grpc-status"] == UNAVAILABLE
    assert "did not arrive within" in said["grpc-message"]


def test_a_stream_that_asks_nothing_and_is_owed_nothing_is_ended(impatient: RunningDaemon) -> None:
    with connected(impatient) as connection:
        connection.send(connection.headers(STREAM))
        said = next(statuses(connection))
    assert said["grpc-status"] == UNAVAILABLE
    assert "no request was sent for" in said["grpc-message"]


def test_a_message_that_comes_an_octet_at_a_time_does_not_keep_a_stream(impatient: RunningDaemon) -> None:
    ended = count(impatient, "stream.ended")
    attacker = Slowloris(impatient.address, impatient.fleet.tls)

    def stream_has_ended() -> bool:
        attacker.step()
        return count(impatient, "stream.ended") > ended

    eventually(stream_has_ended, "a stream lives on octets")
    attacker.close()


async def test_a_client_that_pauses_for_longer_than_a_stream_may_notices_nothing(
    impatient: RunningDaemon,
) -> None:
    ended = count(impatient, "stream.ended")

    async def requests() -> AsyncIterator[CertificateRequest]:
        yield new_request()
        await asyncio.to_thread(impatient.wait_for, "stream.ended", ended + 2)
        yield new_request()

    async with impatient.client() as client:
        results = [result async for result in client.issuance.issue(requests())]
    assert [type(result) for result in results] == [IssuedCertificate] * 2


async def test_results_that_are_not_taken_end_the_stream_and_are_returned_when_asked_again(
    impatient: RunningDaemon,
) -> None:
    csrs = [new_request(f"slow-{uuid.uuid4()}").csr for _ in range(64)]
    message = issuance_pb2.IssueCertificatesRequest(
        requests=[
            issuance_pb2.CertificateRequest(request_id=derive_request_id("", csr), csr=csr) for csr in csrs
        ]
    )
    stalled = count(impatient, "stream.stalled")
    with RawConnection(impatient.address, impatient.fleet.tls, window=0) as connection:
        stream = connection.call(STREAM, in_message(message.SerializeToString()), end=False)
        reading = statuses(connection)
        said = asyncio.create_task(asyncio.to_thread(next, reading))
        await asyncio.to_thread(impatient.wait_for, "stream.stalled", stalled + 1)
        connection.send(WindowUpdateFrame(stream, window_increment=2**20))
        assert (await said)["grpc-status"] == UNAVAILABLE
    issued = {device: der for device, der in certificates(impatient.fleet).items() if "slow-" in device}
    assert len(issued) == len(csrs)
    async with impatient.client() as client:
        results = [
            result async for result in client.issuance.issue([CertificateRequest(csr) for csr in csrs])
        ]
    assert all(isinstance(result, IssuedCertificate) and result.replayed for result in results)
    assert {result.device_id: result.chain[0] for result in results} == issued  # type: ignore[union-attr]


async def test_a_client_that_is_slow_for_longer_than_a_stream_may_gets_every_result_once(
    impatient: RunningDaemon,
) -> None:
    requests = new_requests(3000)
    ended = count(impatient, "stream.ended")
    seen: list[str] = []
    async with impatient.client() as client:
        async for result in client.issuance.issue(requests):
            assert isinstance(result, IssuedCertificate), result
            seen.append(result.device_id)
            if len(seen) == 1:
                await asyncio.to_thread(impatient.wait_for, "stream.ended", ended + 1)
    assert sorted(seen) == sorted(request.device_id for request in requests)


async def test_a_connection_that_grows_old_is_followed_by_another(make_fleet: Callable[[], Fleet]) -> None:
    aging = command(CONNECTION_AGE_SECONDS=1, CONNECTION_GRACE_SECONDS=1)
    with running(make_fleet(), within=aging) as daemon:
        daemon.wait_for("signer.ready", count=2)

        async def requests() -> AsyncIterator[CertificateRequest]:
            for _ in range(3):
                yield new_request()
                ended = count(daemon, "stream.ended")
                await asyncio.to_thread(daemon.wait_for, "stream.ended", ended + 1)

        async with daemon.client() as client:
            results = [result async for result in client.issuance.issue(requests())]
    assert [type(result) for result in results] == [IssuedCertificate] * 3
