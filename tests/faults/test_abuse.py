"""Clients with a good certificate and bad intent: each is refused, closed or ignored, and harms nobody."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hpack import Decoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from otahsm.client import IssuedCertificate
from otahsm.daemon.edge import limits

from support.attacks.attackers import GARBAGE, GIANT, opened_and_reset
from support.attacks.raw_http2 import HEALTH, ISSUE, REFLECTION, STREAM, WATCH, RawConnection, in_message
from support.devices import new_request
from support.harness import RunningDaemon, eventually

MEBIBYTE: Final = 2**20
MEMORY: Final = 48 * MEBIBYTE  # that one attack may cost the daemon
FLOOD: Final = 20_000  # frames
REFUSED_STREAM: Final = 7


def peak_bytes(daemon: RunningDaemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def descriptors(daemon: RunningDaemon) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.process.pid}/fd").iterdir())


async def assert_serves(daemon: RunningDaemon) -> None:
    async with daemon.client() as client:
        assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)


@contextlib.contextmanager
def within_bounds(daemon: RunningDaemon, memory: int = MEMORY) -> Iterator[None]:
    """Check that a block costs the daemon no more memory, and no descriptor for good."""
    open_before = descriptors(daemon)
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")  # the peak is now what is there now
    before = peak_bytes(daemon)
    yield
    grown = peak_bytes(daemon) - before
    assert grown < memory, f"{grown / MEBIBYTE:.1f} MiB"
    eventually(lambda: descriptors(daemon) <= open_before, "descriptors are left open")


@pytest.fixture
async def attacked(shared_daemon: RunningDaemon) -> RunningDaemon:
    """The shared daemon, warm: what is loaded with the first call is no cost of an attack."""
    shared_daemon.wait_for("signer.ready", count=2)
    await assert_serves(shared_daemon)
    for path in (HEALTH, ISSUE, REFLECTION):
        with connected(shared_daemon) as connection:
            status_of(connection, connection.call(path, GARBAGE))
    return shared_daemon


def connected(daemon: RunningDaemon) -> RawConnection:
    return RawConnection(daemon.address, daemon.fleet.tls)


def status_of(connection: RawConnection, stream: int) -> dict[str, str]:
    """Wait for the trailers of the only call of a connection."""
    decoder = Decoder()
    for frame in connection.frames():
        if isinstance(frame, HeadersFrame):
            fields = {str(name): str(value) for name, value in decoder.decode(frame.data)}
            if frame.stream_id == stream and "grpc-status" in fields:
                return fields
        if isinstance(frame, RstStreamFrame) and frame.stream_id == stream:
            raise AssertionError(frame)
    raise ConnectionError("the daemon has closed the connection")


def is_ignored(connection: RawConnection) -> bool:
    """Return whether a connection goes on after all that was sent."""
    connection.send(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 65535}))
    stream = connection.next_stream
    connection.call(HEALTH, in_message(b""))
    return any(isinstance(frame, HeadersFrame) and frame.stream_id == stream for frame in connection.frames())


@functools.cache
def bomb() -> bytes:
    """Make a message that is a thousand times as large as it looks."""
    return in_message(gzip.compress(bytes(50 * MEBIBYTE)), compressed=True)


@pytest.mark.parametrize(
    ("path", "message", "more", "status"),
    [
        pytest.param(ISSUE, GARBAGE, (), "3", id="garbage"),
        pytest.param(STREAM, GARBAGE, (), "3", id="garbage in a stream"),
        pytest.param(HEALTH, GARBAGE, (), "3", id="garbage for the health service"),
        pytest.param(WATCH, GARBAGE, (), "3", id="garbage for a watch"),
        pytest.param(REFLECTION, GARBAGE, (), "3", id="garbage for the reflection service"),
        pytest.param(ISSUE, GIANT, (), "8", id="4 GiB announced"),
        pytest.param(STREAM, GIANT, (), "8", id="4 GiB announced in a stream"),
        pytest.param(
            ISSUE,
            in_message(bytes(16384), announced=limits.MAX_MESSAGE_BYTES + 1),
            (),
            "8",
            id="one octet too many",
        ),
        pytest.param(ISSUE, bomb, (("grpc-encoding", "gzip"),), "12", id="a gzip bomb"),
        pytest.param(STREAM, bomb, (("grpc-encoding", "gzip"),), "12", id="a gzip bomb in a stream"),
        pytest.param(ISSUE, bomb, (), "13", id="a gzip bomb that does not say so"),
        pytest.param(HEALTH, in_message(b""), (("x", "y" * 9000),), "8", id="large metadata"),
        pytest.param(HEALTH, in_message(b""), (("x", "y" * 15_000),), "8", id="larger metadata"),
        pytest.param(ISSUE, b"", (), "3", id="no message"),
    ],
)
async def test_a_call_that_breaks_the_rules_is_refused(
    attacked: RunningDaemon,
    path: str,
    message: bytes | Callable[[], bytes],
    more: tuple[tuple[str, str], ...],
    status: str,
) -> None:
    octets = message if isinstance(message, bytes) else message()
    with within_bounds(attacked):
        with connected(attacked) as connection:
            said = status_of(connection, connection.call(path, octets, *more))
        assert said["grpc-status"] == status
        assert said["grpc-message"]
        assert "<class" not in said["grpc-message"]
        await assert_serves(attacked)


@pytest.mark.parametrize(
    "path", [b"/\xff", b"/otahsm.v1.IssuanceService/\xc3(", b"\xf0\x90", b"/" + b"a" * 4000]
)
async def test_a_method_whose_name_is_no_text_is_unknown_and_the_daemon_lives_on(
    attacked: RunningDaemon, path: bytes
) -> None:
    with within_bounds(attacked):
        with connected(attacked) as connection:
            headers = connection.headers(path, end=True)
            connection.send(headers)
            assert status_of(connection, headers.stream_id)["grpc-status"] == "12"
        await assert_serves(attacked)


def test_a_watch_of_the_daemons_health_is_answered_while_it_lasts(attacked: RunningDaemon) -> None:
    with connected(attacked) as connection:
        connection.call(WATCH, in_message(b""))
        (answer,) = itertools.islice(
            (frame for frame in connection.frames() if isinstance(frame, DataFrame)), 1
        )
        assert answer.data == in_message(b"\x08\x01")


class ZeroIncrement(WindowUpdateFrame):
    """Opens a window by nothing, which hyperframe would not write."""

    def serialize_body(self) -> bytes:
        return bytes(4)


def pings(_: RawConnection) -> list[Frame]:
    return [PingFrame(0, b"12345678")] * FLOOD


def settings(_: RawConnection) -> list[Frame]:
    return [SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 1000})] * FLOOD


def priorities(_: RawConnection) -> list[Frame]:
    return [PriorityFrame(2 * number + 1) for number in range(FLOOD)]


def small_updates(_: RawConnection) -> list[Frame]:
    return [WindowUpdateFrame(0, window_increment=1)] * FLOOD


def resets(connection: RawConnection) -> list[Frame]:
    return list(opened_and_reset(connection, FLOOD // 2))


def unfinished_headers(connection: RawConnection) -> HeadersFrame:
    headers = connection.headers()
    headers.flags.discard("END_HEADERS")
    return headers


def continuations(connection: RawConnection) -> list[Frame]:
    headers = unfinished_headers(connection)
    more = [ContinuationFrame(headers.stream_id, b"\0\1a\x64" + b"b" * 100) for _ in range(FLOOD)]
    more[-1].flags.add("END_HEADERS")
    return [headers, *more]


def empty_continuations(connection: RawConnection) -> list[Frame]:
    headers = unfinished_headers(connection)
    return [headers, *[ContinuationFrame(headers.stream_id)] * FLOOD]


def empty_data(connection: RawConnection) -> list[Frame]:
    headers = connection.headers()
    return [headers, *[DataFrame(headers.stream_id)] * FLOOD]


def zero_increments(_: RawConnection) -> list[Frame]:
    return [ZeroIncrement(0, window_increment=1)] * 100


def overflowing_updates(_: RawConnection) -> list[Frame]:
    return [WindowUpdateFrame(0, window_increment=2**31 - 1)] * 100


async def test_more_streams_than_a_connection_may_have_are_refused_one_by_one(
    attacked: RunningDaemon,
) -> None:
    with within_bounds(attacked):
        with connected(attacked) as connection:
            many = [connection.headers(HEALTH) for _ in range(2 * limits.MAX_STREAMS_A_CONNECTION)]
            connection.send(*many)
            refused = 0
            for frame in connection.frames():
                refused += isinstance(frame, RstStreamFrame) and frame.error_code == REFUSED_STREAM
                if refused == limits.MAX_STREAMS_A_CONNECTION:
                    break
            assert refused == limits.MAX_STREAMS_A_CONNECTION
        await assert_serves(attacked)


async def test_a_client_has_only_so_many_calls_open_and_all_of_them_again_when_they_have_ended(
    attacked: RunningDaemon,
) -> None:
    with within_bounds(attacked):
        for _ in range(3):
            with connected(attacked) as connection:
                connection.send(*(connection.headers(STREAM) for _ in range(limits.MAX_CALLS_A_CLIENT)))
                # The last call of these is refused, and it is the only one; nothing is asked on the others.
                one_more = connection.headers(STREAM)
                connection.send(one_more)
                said = status_of(connection, one_more.stream_id)
                assert said["grpc-status"] == "8"
                assert "limit of 64 open calls" in said["grpc-message"]
            eventually_takes_a_call(attacked)
        await assert_serves(attacked)


def eventually_takes_a_call(daemon: RunningDaemon) -> None:
    """Wait until the calls of a connection that is gone have ended."""

    def taken() -> bool:
        with connected(daemon) as connection:
            return status_of(connection, connection.call(ISSUE, GARBAGE))["grpc-status"] == "3"

    eventually(taken, "calls of a client that is gone are still counted")


async def test_messages_that_never_end_cost_no_more_than_all_that_a_client_may_have_open(
    attacked: RunningDaemon,
) -> None:
    largest = in_message(bytes(limits.MAX_MESSAGE_BYTES - 1), announced=limits.MAX_MESSAGE_BYTES)
    bound = (limits.MAX_CALLS_A_CLIENT * limits.MAX_MESSAGE_BYTES) * 3 // 2
    with within_bounds(attacked, bound):
        with contextlib.ExitStack() as stack:
            for _ in range(limits.MAX_CALLS_A_CLIENT):
                connection = stack.enter_context(connected(attacked))
                connection.wide_open()
                headers = connection.headers(STREAM)
                connection.send(headers)
                connection.write_as_allowed(headers.stream_id, largest)
        eventually_takes_a_call(attacked)
        await assert_serves(attacked)


async def test_a_flood_of_refused_calls_is_logged_in_so_many_lines(attacked: RunningDaemon) -> None:
    before = len(attacked.events)
    count = 20 * limits.LOG_BURST
    with within_bounds(attacked), connected(attacked) as connection:
        for _ in range(count // 50):
            streams = [connection.call(ISSUE, GARBAGE) for _ in range(50)]
            ended = 0
            for frame in connection.frames():
                ended += frame.stream_id in streams and isinstance(frame, HeadersFrame)
                if ended == len(streams):
                    break
        await assert_serves(attacked)
    said = [event for event in attacked.events[before:] if event["event"] == "call.refused"]
    assert limits.LOG_BURST <= len(said) < count / 2
    assert any("suppressed" in event for event in said)


Flood = Callable[[RawConnection], list[Frame]]


@pytest.mark.parametrize(
    "flood", [settings, priorities, small_updates, resets, overflowing_updates, continuations]
)
async def test_a_flood_of_frames_that_cost_little_is_ignored(attacked: RunningDaemon, flood: Flood) -> None:
    with within_bounds(attacked):
        with connected(attacked) as connection:
            connection.send(*flood(connection))
            await assert_serves(attacked)
            assert is_ignored(connection)
        await assert_serves(attacked)


@pytest.mark.parametrize("flood", [pings, empty_continuations, empty_data, zero_increments])
async def test_a_flood_that_breaks_the_rules_ends_its_connection(
    attacked: RunningDaemon, flood: Flood
) -> None:
    with within_bounds(attacked):
        with connected(attacked) as connection:
            connection.try_to_send(*flood(connection))
            await assert_serves(attacked)
            connection.seconds_until_closed()
        await assert_serves(attacked)
