"""Two tokens with the same key: what one fails at, the other does, and one that lies is out."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from otahsm.client import IssuedCertificate

from support.devices import issue_all, new_request, new_requests
from support.harness import Fleet, eventually, running
from support.ledger_reader import certificates
from support.tokens.faulty import FaultyToken, with_replica


@pytest.fixture
def standby(make_fleet: Callable[[], Fleet], shim_module: Path) -> Iterator[FaultyToken]:
    with with_replica(make_fleet(), shim_module, weight=0) as replica:
        yield replica


@pytest.fixture
def equal(make_fleet: Callable[[], Fleet], shim_module: Path) -> Iterator[FaultyToken]:
    with with_replica(make_fleet(), shim_module, weight=1) as replica:
        yield replica


def verify(fleet: Fleet) -> None:
    root = x509.load_pem_x509_certificate(fleet.root_pem.read_bytes())
    for der in certificates(fleet).values():
        x509.load_der_x509_certificate(der).verify_directly_issued_by(root)


async def test_a_token_that_stands_by_signs_only_while_the_other_can_not(standby: FaultyToken) -> None:
    fleet = standby.fleet
    tokens, away = fleet.folder / "token/tokens", fleet.folder / "token/away"
    standby.misbehave("C_Initialize=0x05")  # while it alone is ready it would get the first checkpoint
    with running(fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        standby.misbehave()
        daemon.wait_for("signer.ready", count=4)
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client(patience=60) as client:
            probed = len(standby.signed())
            issued, refused = await issue_all(client, new_requests(200))
            assert (len(issued), len(refused)) == (200, 0)
            # Whatever it was asked to sign was the text of the probe: 32 octets of its digest.
            assert len(set(standby.signed())) == 1
            tokens.rename(away)
            issued, refused = await issue_all(client, new_requests(200))
            assert (len(issued), len(refused)) == (200, 0)
            assert len(standby.signed()) >= probed + 200
            assert not [event for event in daemon.events if event.get("serving") is False]
            away.rename(tokens)
            daemon.wait_for("signer.ready", count=6)
            before = set(standby.signed())
            issued, refused = await issue_all(client, new_requests(200))
            assert (len(issued), len(refused)) == (200, 0)
            assert set(standby.signed()) == before
        assert daemon.stop() == 0
    assert len(certificates(fleet)) == 600
    verify(fleet)


async def test_tokens_of_the_same_weight_share_the_work(equal: FaultyToken) -> None:
    equal.fleet.edit("batch_size = 128", "batch_size = 8")
    with running(equal.fleet) as daemon:
        daemon.wait_for("signer.ready", count=4)
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            issued, refused = await issue_all(client, new_requests(1000))
        assert (len(issued), len(refused)) == (1000, 0)
        assert 100 < len(set(equal.signed())) < 900


@pytest.mark.parametrize("fault", ["C_Sign=0x30", "C_Sign=hang"])
async def test_what_one_token_fails_at_the_other_does(equal: FaultyToken, fault: str) -> None:
    equal.fleet.edit("batch_size = 128", "batch_size = 8")
    equal.fleet.edit("weight = 1\n", "weight = 1\nsign_timeout_seconds = 1.0\n")
    with running(equal.fleet) as daemon:
        daemon.wait_for("signer.ready", count=4)
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client(patience=0) as client:
            asking = asyncio.ensure_future(issue_all(client, new_requests(1000)))
            equal.misbehave(fault)
            issued, refused = await asking
            assert (len(issued), len(refused)) == (1000, 0)
        assert not [event for event in daemon.events if event.get("serving") is False]
        # The other one may have had nothing to do yet: its probe finds the fault, if it lasts.
        (lost, *_) = await asyncio.to_thread(daemon.wait_for, "signer.lost", 2)
        assert lost["message"].startswith("token 2, pkcs11:token=otahsm-quickstart: ")
        equal.misbehave()
        for pid in set(daemon.signers()) - {event["pid"] for event in daemon.wait_for("signer.ready")}:
            os.kill(pid, signal.SIGKILL)  # it may hang while it starts, which it may do for a minute
        daemon.wait_for("signer.ready", count=6)
        assert daemon.stop() == 0
    verify(equal.fleet)


async def test_a_token_that_returns_a_wrong_signature_is_out_of_service(equal: FaultyToken) -> None:
    with running(equal.fleet) as daemon:
        daemon.wait_for("signer.ready", count=4)
        daemon.wait_for("health.changed", serving=True)
        equal.misbehave("flip", "once")
        async with daemon.client(patience=0) as client:
            # The probe of an idle signer finds it too.
            (alarm,) = await asyncio.to_thread(daemon.wait_for, "token.out_of_service")
            assert alarm["reason"] == "BAD_SIGNATURE"
            assert alarm["level"] == "error"
            eventually(lambda: len(daemon.signers()) == 2, "its signers live on")
            signed = len(equal.signed())
            issued, refused = await issue_all(client, new_requests(300))
        assert (len(issued), len(refused)) == (300, 0)
        assert len(equal.signed()) == signed
        assert daemon.stop() == 0
    with running(equal.fleet) as daemon:  # an operator has looked at it
        daemon.wait_for("signer.ready", count=4)


async def test_a_token_that_is_alone_stays_in_service_for_every_signature_is_verified(
    equal: FaultyToken,
) -> None:
    fleet = equal.fleet
    shutil.rmtree(fleet.folder / "token/tokens")
    (fleet.folder / "token/tokens").mkdir()
    fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.5")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        equal.misbehave("flip")
        await asyncio.to_thread(daemon.wait_for, "health.changed", serving=False)
        equal.misbehave()
        async with daemon.client(patience=30) as client:
            assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)
        assert [event for event in daemon.events if event.get("reason") == "BAD_SIGNATURE"]
        assert not [event for event in daemon.events if event["event"] == "token.out_of_service"]
    verify(fleet)


def test_replicas_that_make_no_sense_are_refused(fleet: Fleet) -> None:
    config = fleet.toml.read_text()
    uri = "pkcs11:token=x?module-path=/x.so&pin-source=file:pin"
    for lines, why in (
        (f'uri = "{uri}"\nguard_dir = "state/login"', "each replica needs its own guard_dir"),
        (f'uri = "{uri}"\nguard_dir = "state/2"\nsigners = 0', "signers"),
        ('guard_dir = "state/2"', "uri"),
    ):
        fleet.toml.write_text(config.replace("[ca]\n", f"[[token.replica]]\n{lines}\n\n[ca]\n"))
        done = fleet.run("serve")
        assert done.returncode == 2
        assert why in done.stderr
