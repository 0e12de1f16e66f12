"""A token that is slow and works in parallel: signers and sessions together keep all of it busy."""

from __future__ import annotations

import asyncio

import pytest

from otahsm.client import IssuedCertificate

from support.devices import issue_all, new_request, new_requests
from support.harness import running
from support.ledger_reader import certificates
from support.operators import new_client
from support.tokens.faulty import FaultyToken


@pytest.mark.parametrize(("signers", "sessions", "most"), [(2, 8, 16), (1, 16, 16), (2, 1, 2)])
async def test_a_slow_token_is_kept_full_by_as_many_sessions_as_it_has(
    faulty: FaultyToken, signers: int, sessions: int, most: int
) -> None:
    faulty.fleet.set_signers(signers)
    faulty.fleet.edit("sessions = 1", f"sessions = {sessions}")
    requests = new_requests(400)
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=signers)
        daemon.wait_for("health.changed", serving=True)
        faulty.misbehave("slow")
        async with daemon.client() as client:
            issued, refused = await issue_all(client, requests)
        assert not refused
        assert daemon.stop() == 0
    assert certificates(faulty.fleet) == {result.device_id: result.chain[0] for result in issued}
    # The token takes 16 at once. Where there are fewer sessions, its last place is never taken.
    assert (faulty.calls("full") > 100) == (most == 16)


async def test_a_session_that_fails_among_others_costs_its_signer_and_no_certificate(
    faulty: FaultyToken,
) -> None:
    faulty.fleet.edit("sessions = 1", "sessions = 4")
    requests = new_requests(300)
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client(patience=60) as client:
            issued, _ = await issue_all(client, requests[:100])
            faulty.misbehave("C_Sign=0x30")
            daemon.wait_for("signer.lost")
            faulty.misbehave()
            more, refused = await issue_all(client, requests[100:])
        assert not refused
    assert len(certificates(faulty.fleet)) == len(issued) + len(more) == 300


async def test_a_line_that_asks_for_one_does_not_wait_for_a_build_server_that_asks_for_thousands(
    faulty: FaultyToken,
) -> None:
    faulty.fleet.edit("sessions = 1", "sessions = 8")
    faulty.fleet.edit("batch_size = 128", "batch_size = 16")
    line_tls = new_client(faulty.fleet, "line")
    many, one = new_requests(2500), new_request()
    received = 0
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("health.changed", serving=True)
        faulty.misbehave("slow")
        under_load = asyncio.Event()

        async def take_many() -> None:
            nonlocal received
            async with daemon.client(patience=60) as build_server:
                async for result in build_server.issuance.issue(many):
                    assert isinstance(result, IssuedCertificate)
                    received += 1
                    if received == 500:  # its stream is full and stays so
                        under_load.set()

        async with daemon.client(tls=line_tls) as line, asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(take_many())
            await under_load.wait()
            result = await line.issuance.issue_one(one.csr, device_id=one.device_id)
            assert isinstance(result, IssuedCertificate)
            # What is in the cycle already comes before: six batches of 16. Of what waits, some 900, nothing.
            assert 500 <= received < 500 + 300
            assert not taking.done()
    assert received == len(many)
