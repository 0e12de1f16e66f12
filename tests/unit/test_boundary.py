"""What stands between gRPC and the services: what a call sees, whatever its service does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse as Status

from otahsm.access import AccessControl, Caller, Denied, DenyList, Grant, Policy
from otahsm.daemon.edge import boundary, limits
from otahsm.daemon.edge.boundary import CallBoundary
from otahsm.daemon.edge.health import Health
from otahsm.daemon.edge.methods import SERVICES
from otahsm.daemon.edge.server import new_server
from otahsm.errors import ConflictError
from otahsm.system.clock import utc_now
from otahsm.v1 import device_pb2, issuance_pb2, revocation_pb2

RESET = "/otahsm.v1.DeviceService/ResetDevice"
CRL = "/otahsm.v1.RevocationService/GetCrl"
STREAM = "/otahsm.v1.IssuanceService/IssueCertificates"
GRANT = Grant("a", ("cn:a",), frozenset({"issuer", "operator"}))
RESET_RESPONSE = device_pb2.ResetDeviceResponse
RESPONSE = issuance_pb2.IssueCertificatesResponse


class Trusting:
    """Trusts every certificate."""

    def verify_new_client(self, *_: bytes) -> None:
        pass


class Service:
    """Does for each method what the test says, which names two."""

    def __init__(self, name: str, reset: Any, stream: Any, crl: Any) -> None:
        async def nothing(_: object, __: object) -> None:
            pass

        for method in next(service for service in SERVICES if service.name == name).methods:
            setattr(self, method.name, {RESET: reset, STREAM: stream, CRL: crl}.get(method.path, nothing))


async def no_reset(_: object, __: object) -> Any:
    raise AssertionError


async def no_stream(_: object, __: object) -> AsyncIterator[Any]:
    assert not _
    yield


class Edge:
    """A boundary around services that do as the test says, behind a real gRPC server."""

    def __init__(self, reset: Any, stream: Any, crl: Any = no_reset) -> None:
        self.access = AccessControl(Policy([GRANT]))
        self.decisions: list[tuple[str, str]] = []
        self.boundary = CallBoundary(
            self.access,
            Trusting(),  # type: ignore[arg-type]
            lambda _, path, error: self.decisions.append((path, error.reason if error else "")),
            utc_now,
        )
        self.services = {service.name: Service(service.name, reset, stream, crl) for service in SERVICES}

    def deny(self) -> None:
        self.access.deny_list = DenyList([Denied("cn:a", "", "cn:b", 0)])

    async def reset(self, channel: grpc.aio.Channel, message: bytes = b"") -> Any:
        call: Any = channel.unary_unary(
            RESET, response_deserializer=device_pb2.ResetDeviceResponse.FromString
        )
        return await call(message, timeout=20)

    def stream(self, channel: grpc.aio.Channel) -> Any:
        make: Any = channel.stream_stream(STREAM, response_deserializer=RESPONSE.FromString)
        return make(timeout=20)


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "caller_of", lambda _: Caller("cn:a", bytes(32)))
    monkeypatch.setattr(boundary, "chain_of", lambda _: (b"", b""))


@asynccontextmanager
async def served(
    reset: Any = no_reset, stream: Any = no_stream, crl: Any = no_reset
) -> AsyncIterator[tuple[Edge, Any]]:
    edge, server = Edge(reset, stream, crl), new_server()
    edge.boundary.register(server, edge.services)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        small = ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=small) as channel:
            yield edge, channel
    finally:
        await server.stop(0)


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def failure_of(work: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await work
    return failure.value


async def test_an_error_of_ours_is_told_as_it_is_and_not_logged() -> None:
    async def reset(_: object, __: object) -> Any:
        raise ConflictError("taken")

    with structlog.testing.capture_logs() as lines:
        async with served(reset) as (edge, channel):
            failure = await failure_of(edge.reset(channel))
    assert (failure.code(), failure.details()) == (grpc.StatusCode.ALREADY_EXISTS, "taken")
    assert not lines  # whoever may cause it as often as it likes


async def test_a_fault_that_nobody_foresaw_is_logged_with_its_call_and_told_without_its_text() -> None:
    async def reset(_: object, __: object) -> Any:
        raise ValueError("the PIN is 1234")

    with structlog.testing.capture_logs() as lines:
        async with served(reset) as (edge, channel):
            failure = await failure_of(edge.reset(channel))
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert "1234" not in str(failure)
    assert "its log has the details" in str(failure.details())
    (line,) = lines
    assert (line["event"], line["client"], line["call"]) == ("call.fault", "cn:a", RESET)
    assert line["exc_info"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConflictError("taken"), grpc.StatusCode.ALREADY_EXISTS),
        (ValueError("1234"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_what_fails_after_the_first_response_of_a_stream_ends_it_with_its_status(
    error: Exception, code: grpc.StatusCode
) -> None:
    async def stream(_: object, __: object) -> AsyncIterator[Any]:
        yield RESPONSE()
        raise error

    async with served(stream=stream) as (edge, channel):
        call = edge.stream(channel)
        assert await call.read() == RESPONSE()
        failure = await failure_of(call.read())
    assert failure.code() is code
    assert "1234" not in str(failure)


async def test_bytes_that_are_no_message_are_refused_and_logged_in_one_line() -> None:
    async def stream(messages: AsyncIterator[Any], _: object) -> AsyncIterator[Any]:
        async for _message in messages:
            yield RESPONSE()

    with structlog.testing.capture_logs() as lines:
        async with served(stream=stream) as (edge, channel):
            alone = await failure_of(edge.reset(channel, b"\xff"))
            call = edge.stream(channel)
            await call.write(b"")
            assert await call.read() == RESPONSE()
            await call.write(b"\xff")
            in_a_stream = await failure_of(call.read())
    for failure in (alone, in_a_stream):
        assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "not well-formed protobuf" in str(failure.details())
    assert [(line["event"], line["call"]) for line in lines] == [
        ("call.refused", RESET),
        ("call.refused", STREAM),
    ]


async def test_a_call_too_many_is_refused_and_the_next_one_is_not() -> None:
    entered, leave = asyncio.Semaphore(0), asyncio.Event()

    async def reset(_: object, __: object) -> Any:
        entered.release()
        await leave.wait()
        return RESET_RESPONSE()

    with structlog.testing.capture_logs() as lines:
        async with served(reset) as (edge, channel):
            calls = [asyncio.ensure_future(edge.reset(channel)) for _ in range(limits.MAX_CALLS_A_CLIENT)]
            for _ in calls:
                await entered.acquire()
            assert (await failure_of(edge.reset(channel))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            leave.set()
            await asyncio.gather(*calls)
            await edge.reset(channel)
    assert [line["reason"] for line in lines] == ["TOO_MANY_CALLS"]


async def test_a_client_that_is_gone_ends_its_call_and_nothing_is_logged() -> None:
    entered, ended = asyncio.Event(), asyncio.Event()

    async def stream(_: object, __: object) -> AsyncIterator[Any]:
        yield RESPONSE()
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with structlog.testing.capture_logs() as lines:
        async with served(stream=stream) as (edge, channel):
            call = edge.stream(channel)
            await entered.wait()
            call.cancel()
            await ended.wait()
    assert not lines


async def at_work(_: object, __: object) -> AsyncIterator[Any]:
    yield RESPONSE()
    await asyncio.Event().wait()


async def sending(_: object, __: object) -> AsyncIterator[Any]:
    while True:  # what the client does not take, it has to wait for
        yield RESPONSE(results=[issuance_pb2.IssueResult(request_id="x" * 100_000)])


@pytest.mark.parametrize("stream", [at_work, sending])
async def test_a_call_that_the_policy_ends_says_so_whatever_it_is_doing(stream: Callable[..., Any]) -> None:
    async with served(stream=stream) as (edge, channel):
        call = edge.stream(channel)
        await call.read()
        await asyncio.sleep(0.1)  # for the window of the connection to be full
        edge.deny()
        failure = await failure_of(read_to_the_end(call))
        assert failure.code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await failure_of(edge.reset(channel))).code() is grpc.StatusCode.PERMISSION_DENIED
    assert edge.decisions == [(STREAM, ""), (STREAM, "CUT_OFF"), (RESET, "CUT_OFF")]


async def test_a_response_that_is_not_taken_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STALLED_STREAM_SECONDS", 0.2)
    ended = asyncio.Event()

    async def stream(_: object, __: object) -> AsyncIterator[Any]:
        try:
            async for response in sending(_, __):
                yield response
        finally:
            ended.set()

    with structlog.testing.capture_logs() as lines:
        async with served(stream=stream) as (edge, channel):
            call = edge.stream(channel)
            await ended.wait()
            failure = await failure_of(read_to_the_end(call))
    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert "no result was read for 0.2 s" in str(failure.details())
    assert [(line["event"], line["client"], line["call"]) for line in lines] == [
        ("stream.stalled", "cn:a", STREAM)
    ]


async def test_a_service_that_is_not_in_the_table_is_not_registered() -> None:
    edge = Edge(no_reset, no_stream)
    edge.services["otahsm.v1.CoffeeService"] = edge.services["otahsm.v1.DeviceService"]
    with pytest.raises(LookupError, match=r"otahsm\.v1\.CoffeeService is not in the table"):
        edge.boundary.register(new_server(), edge.services)


async def test_a_method_that_nobody_implements_is_named() -> None:
    edge = Edge(no_reset, no_stream)
    del edge.services["otahsm.v1.DeviceService"]
    with pytest.raises(LookupError, match=f"{RESET} is in the table, but not implemented"):
        edge.boundary.register(new_server(), edge.services)


async def test_health_lists_the_services_as_it_checks_them() -> None:
    health = Health()
    await health.start()
    listed: Any = await health.List(None, None)  # type: ignore[arg-type]
    statuses = {name: status.status for name, status in listed.statuses.items()}
    serving = {service.name for service in SERVICES if service.is_ours and not service.needs_signer}
    assert {name for name, status in statuses.items() if status == Status.SERVING} == serving
    await health.set_signing(possible=True)
    listed = await health.List(None, None)  # type: ignore[arg-type]
    assert {status.status for status in listed.statuses.values()} == {Status.SERVING}
    assert listed.statuses.keys() == {"", *(service.name for service in SERVICES if service.is_ours)}


async def test_only_so_many_large_responses_of_a_client_are_made_before_it_has_read_them() -> None:
    made = 0

    async def crl(_: object, __: object) -> Any:
        nonlocal made
        made += 1
        return revocation_pb2.GetCrlResponse(crl=bytes(2 * limits.MEBIBYTE))

    async def reset(_: object, __: object) -> Any:
        return RESET_RESPONSE()

    async with served(reset, crl=crl) as (edge, channel):
        calls = [channel.unary_stream(CRL)(b"") for _ in range(limits.MAX_ANSWERING_A_CLIENT + 4)]
        while made < limits.MAX_ANSWERING_A_CLIENT:
            await asyncio.sleep(0.01)
        await edge.reset(channel)  # the others have come before it, and small responses don't wait
        assert made == limits.MAX_ANSWERING_A_CLIENT
        await asyncio.gather(*map(read_to_the_end, calls))
    assert made == len(calls)


def test_every_list_counts_as_a_large_response() -> None:
    lists = {method for service in SERVICES if service.is_ours for method in service.methods}
    assert {method.name for method in lists if method.gives_much} >= {"GetCrl"} | {
        method.name for method in lists if method.name.startswith("List") and method.name != "ListProfiles"
    }
