"""The SDK: any source of requests, one result each, through lost connections and slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import grpc
import pytest

from otahsm.client import CertificateRequest, Client, ClientTls, IssuedCertificate, Result
from otahsm.client.connection import open_channel
from otahsm.errors import ConfigError, DaemonUnavailableError
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

from support.devices import issue_all, new_request, new_requests
from support.harness import READY_SECONDS, Fleet, RunningDaemon, free_port, resident_bytes, running
from support.ledger_reader import certificates, rows


async def test_a_patient_client_rides_over_a_daemon_that_is_killed_and_started_again(fleet: Fleet) -> None:
    fleet.edit('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{free_port()}"')
    requests = new_requests(1000)
    seen: dict[str, bytes] = {}
    with ExitStack() as daemons:
        first = daemons.enter_context(running(fleet))
        first.wait_for("health.changed", serving=True)
        async with first.client(patience=60) as client:
            async for result in client.issuance.issue(requests):
                assert isinstance(result, IssuedCertificate)
                assert result.device_id not in seen
                seen[result.device_id] = result.chain[0]
                if len(seen) == 200:
                    first.kill()
                    second = daemons.enter_context(running(fleet))
        assert second.stop() == 0
    assert len(seen) == 1000
    assert certificates(fleet) == seen


async def test_a_line_that_has_nothing_to_ask_does_not_notice_that_the_daemon_restarts(fleet: Fleet) -> None:
    fleet.edit('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{free_port()}"')
    with ExitStack() as daemons:
        first = daemons.enter_context(running(fleet))
        first.wait_for("health.changed", serving=True)

        answered = asyncio.Event()

        async def line() -> AsyncIterator[CertificateRequest]:
            yield new_request()
            await answered.wait()
            first.kill()
            second = daemons.enter_context(running(fleet))
            await asyncio.to_thread(second.wait_for, "health.changed", serving=True)

        async with first.client(patience=0) as client:  # nothing waits, so nothing gets impatient
            async for result in client.issuance.issue(line()):
                assert isinstance(result, IssuedCertificate)
                answered.set()


async def test_requests_come_from_a_plain_iterable(client: Client) -> None:
    issued, refused = await issue_all(client, new_requests(130))
    assert (len(issued), len(refused)) == (130, 0)


async def test_no_requests_give_no_results(client: Client) -> None:
    assert [result async for result in client.issuance.issue([])] == []


async def test_a_slow_source_is_not_kept_waiting_for_a_full_message(
    client: Client,
) -> None:
    answered = asyncio.Event()
    requests = new_requests(3)

    async def one_by_one() -> AsyncIterator[CertificateRequest]:
        for request in requests:
            yield request
            await answered.wait()  # the next one is only asked for when this one has its answer
            answered.clear()

    async for result in client.issuance.issue(one_by_one()):
        assert isinstance(result, IssuedCertificate)
        answered.set()


async def test_a_source_without_end_is_taken_only_as_fast_as_results_come(client: Client) -> None:
    taken = 0

    def endless() -> Iterator[CertificateRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield new_request()

    results = client.issuance.issue(endless())
    for _ in range(50):
        await anext(results)
    await results.aclose()
    assert taken < 50 + 64 * 32


async def test_a_caller_that_stops_listening_lets_the_source_go(client: Client) -> None:
    closed = asyncio.Event()

    async def slow() -> AsyncIterator[CertificateRequest]:
        try:
            for request in new_requests(1):
                yield request
            await asyncio.Event().wait()
        finally:
            closed.set()

    before = asyncio.all_tasks()
    results = client.issuance.issue(slow())
    assert isinstance(await anext(results), IssuedCertificate)
    await results.aclose()
    assert closed.is_set()
    async with asyncio.timeout(READY_SECONDS):
        while asyncio.all_tasks() - before:  # gRPC ends its own a little later
            await asyncio.sleep(0.01)


async def test_what_the_source_raises_comes_after_the_results_of_what_it_gave(client: Client) -> None:
    def broken() -> Iterator[CertificateRequest]:
        yield from new_requests(70)
        raise ZeroDivisionError

    seen: list[Result] = []

    async def follow() -> None:
        async for result in client.issuance.issue(broken()):
            seen.append(result)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ZeroDivisionError):
        await follow()
    assert len(seen) == 64  # the second message was never whole
    assert all(isinstance(result, IssuedCertificate) for result in seen)


async def test_a_client_without_a_daemon_says_so(fleet: Fleet) -> None:
    async with Client(f"localhost:{free_port()}", fleet.tls, patience=0) as client:
        with pytest.raises(DaemonUnavailableError, match="Connection refused"):
            await issue_all(client, new_requests(3))
        with pytest.raises(DaemonUnavailableError):
            await client.issuance.authority()
        with pytest.raises(DaemonUnavailableError, match="Connection refused"):
            await client.wait_until_serving(0)


def test_a_tls_file_that_can_not_be_used_is_named_before_anything_is_sent(fleet: Fleet) -> None:
    tls, junk = fleet.tls, fleet.folder / "otahsm.toml"
    for files, complaint in (
        (
            ClientTls(tls.ca, tls.certificate, fleet.folder / "no.key"),
            r"can't read \[client\] key .*/no\.key: ",
        ),
        (ClientTls(junk, tls.certificate, tls.key), r"\[client\] ca .*toml is not a certificate in PEM"),
        (ClientTls(tls.ca, junk, tls.key), r"\[client\] certificate .*toml is not a certificate in PEM"),
        (ClientTls(tls.ca, tls.certificate, junk), r"\[client\] key .*toml is not a private key without"),
        (ClientTls(tls.ca, tls.ca, tls.key), r"\[client\] certificate .* and key .* don't belong together"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            Client("localhost:1", files)


async def test_a_client_that_sends_and_never_reads_slows_only_itself(daemon: RunningDaemon) -> None:
    messages = [
        issuance_pb2.IssueCertificatesRequest(
            requests=[
                issuance_pb2.CertificateRequest(request_id=f"{number}-{item}", csr=request.csr)
                for item, request in enumerate(new_requests(16))
            ]
        )
        for number in range(4)
    ]
    async with open_channel(daemon.address, daemon.fleet.tls) as channel:
        stub = issuance_pb2_grpc.IssuanceServiceStub(channel)
        greedy: grpc.aio.StreamStreamCall[
            issuance_pb2.IssueCertificatesRequest, issuance_pb2.IssueCertificatesResponse
        ] = stub.IssueCertificates()

        async def send_for_ever() -> None:
            while True:
                for message in messages:
                    await greedy.write(message)

        sending = asyncio.create_task(send_for_ever())
        async with daemon.client() as neighbour:
            for _ in range(20):
                issued, _ = await issue_all(neighbour, new_requests(64))
                assert len(issued) == 64
        # The neighbour was served all along; the greedy client's messages stand in line, not in memory.
        resident = resident_bytes(daemon.process.pid)
        async with daemon.client() as neighbour:
            await issue_all(neighbour, new_requests(640))
        assert resident_bytes(daemon.process.pid) - resident < 32 * 1024 * 1024
        assert not sending.done()
        sending.cancel()
        greedy.cancel()
    assert len(rows(daemon.fleet)) == 64 + 20 * 64 + 640
