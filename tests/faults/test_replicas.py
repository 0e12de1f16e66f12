"""Several daemons over one PostgreSQL and one token: exactly once, whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest

from otahsm.client import CertificateRequest, IssuedCertificate
from otahsm.errors import DaemonUnavailableError

from support.devices import issue_all, new_requests
from support.examples import examples
from support.harness import Fleet, RunningDaemon, running
from support.ledger_reader import certificates, event_count, rows, verified
from support.postgres import PostgresServer, on_postgres


@contextlib.contextmanager
def replicas(fleet: Fleet, count: int = 2) -> Iterator[list[RunningDaemon]]:
    """Run several daemons, all serving."""
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(running(fleet)) for _ in range(count)]
        for daemon in daemons:
            daemon.wait_for("health.changed", serving=True)
        yield daemons


@pytest.fixture
def fleet(make_fleet: Callable[[], Fleet], postgres_server: PostgresServer) -> Fleet:
    return on_postgres(make_fleet(), postgres_server)


def check_the_books(fleet: Fleet) -> None:
    """No serial twice, each one was either released or is void, and all of it fits what was signed."""
    everything = rows(fleet)
    assert len({row.serial for row in everything}) == len(everything)
    assert all((row.certificate is None) == (row.void_reason is not None) for row in everything)
    verdict = verified(fleet)
    assert verdict.good
    assert verdict.leaves + verdict.waiting == len(everything) + event_count(fleet)


async def ask(daemon: RunningDaemon, requests: list[CertificateRequest]) -> dict[str, bytes]:
    async with daemon.client(patience=60) as client:
        issued, refused = await issue_all(client, requests)
    assert not refused
    return {result.device_id: result.chain[0] for result in issued}


async def test_clients_that_ask_two_replicas_for_the_same_devices_at_once_get_the_same(fleet: Fleet) -> None:
    count = examples(4000)
    requests = new_requests(count)  # each eight times: dozens of batches of both
    half, quarter = count // 2, count // 4
    orders = [
        requests,
        requests[::-1],
        requests[half:] + requests[:half],
        requests[quarter:] + requests[:quarter],
    ]
    with replicas(fleet) as daemons:
        answers = await asyncio.gather(
            *(ask(daemons[number % 2], orders[number // 2]) for number in range(8))
        )
        for daemon in daemons:
            assert daemon.stop() == 0
    assert all(answer == answers[0] for answer in answers)
    assert certificates(fleet) == answers[0]
    assert len(answers[0]) == count
    check_the_books(fleet)


async def test_a_replica_that_is_killed_leaves_nothing_that_the_other_can_not_finish(fleet: Fleet) -> None:
    requests = new_requests(1000)
    seen: dict[str, bytes] = {}
    with replicas(fleet) as (victim, survivor):
        async with victim.client(patience=0) as client:
            with contextlib.suppress(DaemonUnavailableError):
                async for result in client.issuance.issue(requests):
                    if isinstance(result, IssuedCertificate):
                        seen[result.device_id] = result.chain[0]
                    if len(seen) == 150:
                        victim.kill()
        # What the victim had begun is in progress for the survivor, until it sees that nobody holds it.
        answered = await ask(survivor, requests)
        assert {device: answered[device] for device in seen} == seen
        assert certificates(fleet) == answered
        assert len(answered) == 1000
        assert survivor.stop() == 0
    check_the_books(fleet)


async def test_a_database_that_dies_and_returns_stops_issuing_and_loses_nothing(
    make_fleet: Callable[[], Fleet], postgres_server_of_my_own: PostgresServer
) -> None:
    server = postgres_server_of_my_own
    fleet = on_postgres(make_fleet(), server)
    requests = new_requests(1500)
    seen: dict[str, bytes] = {}
    with replicas(fleet) as (one, other):
        async with one.client(patience=60) as client:
            async for result in client.issuance.issue(requests):
                assert isinstance(result, IssuedCertificate)
                seen[result.device_id] = result.chain[0]
                if len(seen) == 200:
                    server.kill()
                    for daemon in (one, other):
                        daemon.wait_for("health.changed", serving=False)
                        daemon.wait_for("ledger.unavailable")
                    server.start()
                    for daemon in (one, other):
                        daemon.wait_for("health.changed", count=2, serving=True)
        assert await ask(other, requests) == seen
        for daemon in (one, other):
            assert daemon.stop() == 0
    assert certificates(fleet) == seen
    assert len(seen) == 1500
    check_the_books(fleet)
