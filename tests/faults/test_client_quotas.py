"""Quotas over the wire: what a client may have, however many daemons it asks at once."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator

import pytest

from otahsm.client import CertificateRequest, Client, IssuedCertificate, Refusal, Result
from otahsm.client.connection import open_channel
from otahsm.errors import QuotaError
from otahsm.errors.status import from_status
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

from support.devices import new_request, new_requests
from support.harness import Fleet, RunningDaemon, running
from support.ledger_reader import certificates
from support.operators import ISSUER, OperatorCa, allow, new_client
from support.postgres import PostgresServer, on_postgres
from support.tokens.faulty import FaultyToken


@pytest.fixture(scope="module")
def shared_rate(make_fleet: Callable[[], Fleet]) -> Iterator[RunningDaemon]:
    """A daemon that gives one client 20 certificates a second, and another one 1."""
    fleet = make_fleet()
    allow(fleet, "fast", "cn:fast", f"{ISSUER}\nper_second = 20")
    allow(fleet, "slow", "cn:slow", f"{ISSUER}\nper_second = 1")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield daemon


async def ask(client: Client, requests: list[CertificateRequest]) -> list[Result]:
    return [result async for result in client.issuance.issue(requests)]


def issued(results: list[Result]) -> int:
    return sum(isinstance(result, IssuedCertificate) for result in results)


def refusals(results: list[Result]) -> list[Refusal]:
    return [result for result in results if isinstance(result, Refusal)]


async def test_a_race_of_32_calls_on_two_daemons_gets_what_the_quota_allows_and_no_more(
    make_fleet: Callable[[], Fleet], postgres_server: PostgresServer
) -> None:
    fleet = on_postgres(make_fleet(), postgres_server)
    total = new_client(fleet, "total", f"{ISSUER}\ntotal = 100")
    daily = new_client(fleet, "daily", f"{ISSUER}\nper_day = 70")
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(running(fleet)) for _ in range(2)]
        for daemon in daemons:
            daemon.wait_for("health.changed", serving=True)
        for tls, allowed, said in (
            (total, 100, "total has used its quota of 100 certificates, and can't get more"),
            (daily, 70, "daily has used its quota of 70 certificates a day; more will be available at "),
        ):
            async with contextlib.AsyncExitStack() as opened:
                clients = [
                    await opened.enter_async_context(Client(daemon.address, tls, patience=1))
                    for daemon in daemons
                ]
                answers = await asyncio.gather(
                    *(ask(clients[number % 2], new_requests(5)) for number in range(32))
                )
            results = [result for answer in answers for result in answer]
            assert issued(results) == allowed
            assert {(item.code, item.reason) for item in refusals(results)} == {
                ("RESOURCE_EXHAUSTED", "QUOTA")
            }
            assert all(item.message.startswith(said) for item in refusals(results))
            assert all((item.retry_after is None) == (tls is total) for item in refusals(results))


async def test_what_is_asked_again_or_refused_takes_nothing_of_a_quota(fleet: Fleet) -> None:
    tls = new_client(fleet, "small", f'{ISSUER}\ntotal = 3\ndevice_ids = "[0-9a-f-]+"')
    one, two, three, more = new_requests(4)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with Client(daemon.address, tls, patience=1) as client:
            for _ in range(4):
                assert issued(await ask(client, [one])) == 1
            assert issued(await ask(client, [new_request("not its device")])) == 0
            assert issued(await ask(client, [CertificateRequest(b"no CSR")])) == 0
            assert issued(await ask(client, [two, three])) == 2
            (refused,) = refusals(await ask(client, [more]))
            assert refused.reason == "QUOTA"
            assert issued(await ask(client, [one, two, three])) == 3  # it still gets what it has
    with running(fleet) as daemon:  # and a restart begins nothing anew
        daemon.wait_for("health.changed", serving=True)
        async with Client(daemon.address, tls, patience=1) as client:
            assert issued(await ask(client, [more])) == 0


async def test_all_certificates_of_a_client_share_its_quota(fleet: Fleet) -> None:
    one = new_client(fleet, "shared", f"{ISSUER}\ntotal = 4")
    other = OperatorCa(fleet).issue("shared")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        results = []
        for tls in (one, other):
            async with Client(daemon.address, tls, patience=1) as client:
                results += await ask(client, new_requests(3))
        assert issued(results) == 4


async def test_what_came_to_nothing_is_given_back(faulty: FaultyToken) -> None:
    tls = new_client(faulty.fleet, "small", f"{ISSUER}\ntotal = 5\nper_day = 5")
    requests = new_requests(5)
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("health.changed", serving=True)
        async with Client(daemon.address, tls, patience=0) as hasty:
            faulty.misbehave("C_Sign=0x30")  # CKR_DEVICE_ERROR
            assert issued(await ask(hasty, requests)) == 0
            faulty.misbehave()
        daemon.wait_for("health.changed", count=3)
        async with Client(daemon.address, tls, patience=30) as patient:
            assert issued(await ask(patient, requests)) == 5
            assert issued(await ask(patient, new_requests(1))) == 0
    assert len(certificates(faulty.fleet)) == 5


async def test_a_client_that_is_too_fast_comes_back_by_itself(shared_rate: RunningDaemon) -> None:
    tls = OperatorCa(shared_rate.fleet).issue("fast")
    async with Client(shared_rate.address, tls, patience=30) as client:
        assert issued(await ask(client, new_requests(45))) == 45
    with contextlib.closing(sqlite3.connect(shared_rate.fleet.folder / "ledger/ledger.sqlite3")) as ledger:
        times = [row[0] for row in ledger.execute("SELECT intended_at FROM intents ORDER BY id")]
    assert max(times) - min(times) > 1_000_000  # 20 at once, and 20 a second then


async def test_a_refusal_says_on_the_wire_when_to_come_back(shared_rate: RunningDaemon) -> None:
    tls = OperatorCa(shared_rate.fleet).issue("slow")
    async with open_channel(shared_rate.address, tls) as channel:
        stub: issuance_pb2_grpc.IssuanceServiceAsyncStub = issuance_pb2_grpc.IssuanceServiceStub(channel)
        call = stub.IssueCertificates()
        messages = [
            issuance_pb2.CertificateRequest(request_id=item.device_id, csr=item.csr)
            for item in new_requests(3)
        ]
        await call.write(issuance_pb2.IssueCertificatesRequest(requests=messages))
        results: list[issuance_pb2.IssueResult] = []
        while len(results) < 3:
            response = await call.read()
            assert isinstance(response, issuance_pb2.IssueCertificatesResponse)
            results.extend(response.results)
    refused = [result.error for result in results if result.HasField("error")]
    assert len(refused) == 2
    for status in refused:
        error = from_status(status)
        assert isinstance(error, QuotaError)
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 1
