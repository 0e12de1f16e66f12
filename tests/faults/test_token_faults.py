"""What the token can do to us, and what a client then sees: a certificate, or an error that says to wait."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from cryptography import x509

from otahsm.client import IssuedCertificate, Refusal, Result

from soak.reconnects import reconnect
from support.devices import issue_all, new_request, new_requests
from support.harness import Fleet, eventually, is_running, running
from support.ledger_reader import certificates, rows
from support.tokens.faulty import FaultyToken


@pytest.mark.parametrize("fault", ["C_Sign=abort", "C_Sign=0x30", "flip"])
async def test_a_token_that_fails_costs_an_unavailable_and_recovers_by_itself(
    faulty: FaultyToken, fault: str
) -> None:
    faulty.fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.5")
    request = new_request()
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        faulty.misbehave(fault)
        async with daemon.client(patience=0) as client:
            refusal = await client.issuance.issue_one(request.csr)
            assert isinstance(refusal, Refusal)
            bad = "BAD_SIGNATURE" if fault == "flip" else "TOKEN_UNAVAILABLE"
            assert (refusal.code, refusal.reason) == ("UNAVAILABLE", bad)
            assert refusal.hint
        daemon.wait_for("health.changed", serving=False)
        assert certificates(faulty.fleet) == {}
        faulty.misbehave()
        async with daemon.client(patience=30) as client:
            result = await client.issuance.issue_one(request.csr)
        assert isinstance(result, IssuedCertificate)
        daemon.wait_for("health.changed", serving=True, count=2)
        assert daemon.stop() == 0
    *voided, issued = rows(faulty.fleet)
    assert [row.certificate for row in voided] == [None] * len(voided)
    assert all(row.void_reason for row in voided)
    assert issued.certificate == result.chain[0]


async def test_a_signature_that_does_not_verify_is_never_released(faulty: FaultyToken) -> None:
    requests = new_requests(300)
    seen: list[Result] = []
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client(patience=60) as client:
            async for result in client.issuance.issue(requests):
                seen.append(result)
                if len(seen) == 1:
                    faulty.misbehave("flip")
                    daemon.wait_for("signer.lost")
                    faulty.misbehave()
    root = x509.load_pem_x509_certificate(faulty.fleet.root_pem.read_bytes())
    assert len(seen) == len(requests)
    for result in seen:
        assert isinstance(result, IssuedCertificate)
        x509.load_der_x509_certificate(result.chain[0]).verify_directly_issued_by(root)


async def test_a_token_that_hangs_costs_one_signer_and_its_batch_goes_to_another(faulty: FaultyToken) -> None:
    faulty.fleet.edit("sign_timeout_seconds = 30.0", "sign_timeout_seconds = 3.0")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("health.changed", serving=True)
        stopped, *_ = daemon.signers()
        os.kill(stopped, signal.SIGSTOP)
        async with daemon.client() as client:
            issued, refused = await issue_all(client, new_requests(500))
        assert len(issued) == 500
        assert not refused
        (lost,) = daemon.wait_for("signer.lost")
        assert lost["pid"] == stopped
        daemon.wait_for("signer.ready", count=3)
        assert daemon.stop() == 0


async def test_a_token_that_hangs_for_ever_is_answered_unavailable_within_the_deadline(
    faulty: FaultyToken,
) -> None:
    faulty.fleet.edit("sign_timeout_seconds = 30.0", "sign_timeout_seconds = 0.5")
    faulty.fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 1.0")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        faulty.misbehave("C_Sign=hang")
        async with daemon.client(patience=0) as client:
            refusal = await client.issuance.issue_one(new_request().csr)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "UNAVAILABLE"
        daemon.wait_for("health.changed", serving=False)


async def test_the_intent_is_durable_before_the_token_is_asked(faulty: FaultyToken) -> None:
    faulty.fleet.edit("sign_timeout_seconds = 30.0", "sign_timeout_seconds = 600.0")
    request = new_request()
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("health.changed", serving=True)
        before = faulty.calls("sign")
        faulty.misbehave("C_Sign=hang")
        async with daemon.client(patience=0) as client:
            asking = asyncio.ensure_future(client.issuance.issue_one(request.csr))
            while faulty.calls("sign") == before:
                await asyncio.wait({asking}, timeout=0.01)
            # The signature is being made, so the ledger knows its serial number already.
            (intent,) = rows(faulty.fleet)
            assert intent.device_id == request.device_id
            assert intent.certificate is None
            daemon.kill()
            asking.cancel()
    with running(faulty.fleet) as daemon:
        faulty.misbehave()
        (recovered,) = daemon.wait_for("ledger.recovered")
        assert recovered["voided_intents"] == 1
        (intent,) = rows(faulty.fleet)
        assert intent.void_reason


async def test_sigterm_does_not_wait_for_a_token_that_hangs_for_ever(faulty: FaultyToken) -> None:
    faulty.fleet.edit("sign_timeout_seconds = 30.0", "sign_timeout_seconds = 600.0")
    faulty.fleet.edit("drain_seconds = 30", "drain_seconds = 1")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        before = faulty.calls("sign")
        faulty.misbehave("C_Sign=hang")
        async with daemon.client(patience=0) as client:
            asking = asyncio.ensure_future(client.issuance.issue_one(new_request().csr))
            while faulty.calls("sign") == before:
                await asyncio.wait({asking}, timeout=0.01)
            assert daemon.stop() == 0
            refusal = await asking
        assert isinstance(refusal, Refusal)
        assert refusal.code == "UNAVAILABLE"
    (intent,) = rows(faulty.fleet)
    assert intent.certificate is None
    assert intent.void_reason


def test_sigterm_ends_a_daemon_that_still_waits_for_its_token(faulty: FaultyToken) -> None:
    faulty.misbehave("C_Sign=0x30")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.failed")
        assert daemon.stop() == 0


async def test_a_token_that_vanishes_and_returns_is_served_again_without_an_operator(fleet: Fleet) -> None:
    fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.5")
    tokens, away = fleet.folder / "token/tokens", fleet.folder / "token/away"
    requests = new_requests(200)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client(patience=60) as client:
            issued, _ = await issue_all(client, requests[:100])
            tokens.rename(away)
            daemon.wait_for("health.changed", serving=False)
            asking = asyncio.ensure_future(issue_all(client, requests[100:]))
            await asyncio.to_thread(daemon.wait_for, "requests.refused")
            away.rename(tokens)
            more, refused = await asking
        assert not refused
        daemon.wait_for("health.changed", serving=True, count=2)
        assert daemon.stop() == 0
    assert certificates(fleet) == {result.device_id: result.chain[0] for result in (*issued, *more)}


def test_signers_that_were_still_starting_do_not_outlive_their_daemon(faulty: FaultyToken) -> None:
    faulty.misbehave("C_Sign=hang")
    for _ in range(3):
        with running(faulty.fleet) as daemon:
            daemon.wait_for("daemon.listening")
            eventually(lambda: len(daemon.children()) == 2, "not all workers are started")
            children = daemon.children()
            daemon.kill()
        # What they were told is in the pipe already: nobody but themselves can notice.
        eventually(lambda: not any(map(is_running, children)), "signers outlive their daemon")  # noqa: B023


async def test_sessions_that_are_lost_again_and_again_leave_nothing_behind(faulty: FaultyToken) -> None:
    await reconnect(faulty, 10)  # `make soak` does it a thousand times


async def test_a_token_without_read_only_sessions_is_served(faulty: FaultyToken) -> None:
    faulty.fleet.edit("sessions = 1", "sessions = 3")
    faulty.misbehave("no-read-only")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            issued, refused = await issue_all(client, new_requests(100))
        assert (len(issued), len(refused)) == (100, 0)
    assert faulty.fleet.run("doctor").returncode == 0
