"""From a ledger that was tampered with, nothing is issued and nothing is published."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from otahsm.client import Client, IssuedCertificate, Revoked, ToRevoke
from otahsm.errors import LedgerTamperedError
from otahsm.pki.crls.building import Reason

from support.devices import issue_all, issued, new_requests
from support.harness import Fleet, RunningDaemon, eventually, running
from support.ledger_reader import verified
from support.revoking import configure

QUEUED = (
    "INSERT INTO unlogged (id, kind, intent_id, hash, mac) VALUES (9999, 3, 1, zeroblob(32), zeroblob(32))"
)
UNQUEUED = "DELETE FROM unlogged WHERE id = 9999"


def change(fleet: Fleet, statement: str) -> None:
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3", timeout=30)) as database, database:
        database.execute(statement)


def crl_files(fleet: Fleet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (fleet.folder / "crl").glob("*.crl")}


def client_of(daemon: RunningDaemon) -> Client:
    return Client(daemon.address, daemon.fleet.tls, patience=10)


async def refusal(daemon: RunningDaemon) -> str:
    """Ask for a certificate, and return why it is refused."""
    async with daemon.client() as client:
        certificates, (refused,) = await issue_all(client, new_requests(1))
    assert certificates == []
    assert isinstance(refused.error, LedgerTamperedError)
    return refused.error.message


async def revoked(daemon: RunningDaemon, certificate: IssuedCertificate) -> None:
    async with client_of(daemon) as client:
        target = ToRevoke(certificate.serial)
        outcomes = [each async for each in client.revocation.revoke([target], Reason.KEY_COMPROMISE)]
    assert [type(outcome) for outcome in outcomes] == [Revoked]


async def test_nothing_is_issued_or_published_from_a_ledger_that_was_tampered_with(fleet: Fleet) -> None:
    configure(fleet)
    with running(fleet) as daemon:
        daemon.configure_client()
        daemon.wait_for("health.changed", serving=True)
        first, second = await issued(daemon, 2)
        await revoked(daemon, first)
        eventually(lambda: bool(crl_files(fleet)), "no CRL is written")
        change(fleet, QUEUED)
        (failed,) = daemon.wait_for("transparency.failed", reason="LEDGER_TAMPERED")
        assert "no daemon with our MAC key has queued the revocation of intent 1" in failed["message"]
        daemon.wait_for("health.changed", serving=False)
        published = crl_files(fleet)
        async with client_of(daemon) as client:
            with pytest.raises(LedgerTamperedError, match="the tree can't grow"):
                await client.revocation.crl()
        assert "the tree can't grow" in await refusal(daemon)
        health = json.loads(fleet.run("health", "--json").stdout)
        assert health["serving"] is False
        assert "no daemon with our MAC key" in health["message"]
        await revoked(daemon, second)  # what makes devices less trusted goes on
        assert crl_files(fleet) == published
        change(fleet, UNQUEUED)
        daemon.wait_for("health.changed", serving=True, count=2)
        await issued(daemon, 1)
        eventually(lambda: crl_files(fleet) != published, "no CRL is written")
        assert daemon.stop() == 0
    assert verified(fleet).good


async def test_a_tree_that_does_not_follow_from_its_checkpoint_is_found_at_the_start(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await issued(daemon, 5)
        async with client_of(daemon) as client:
            await client.transparency.checkpoint(make_new=True)
        assert daemon.stop() == 0
    change(fleet, "UPDATE tree SET peaks = zeroblob(length(peaks))")
    with running(fleet) as daemon:
        (failed,) = daemon.wait_for("transparency.failed", reason="LEDGER_TAMPERED")
        assert "does not extend the one that was signed" in failed["message"]
        assert "does not extend" in await refusal(daemon)


async def test_nothing_is_issued_from_an_older_copy_of_the_ledger(fleet: Fleet) -> None:
    ledger = fleet.folder / "ledger/ledger.sqlite3"
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await issued(daemon, 3)
        assert daemon.stop() == 0
    older = ledger.read_bytes()
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await issued(daemon, 3)
        assert daemon.stop() == 0  # with a last checkpoint
    newer = ledger.read_bytes()
    ledger.write_bytes(older)
    with running(fleet) as daemon:
        async with client_of(daemon) as client:  # it is asked before its signer is ready
            _, (early,) = await issue_all(client, new_requests(1))
        assert early.error.reason in {"LEDGER_TAMPERED", "TOKEN_UNAVAILABLE"}
        (failed,) = daemon.wait_for("transparency.failed", reason="LEDGER_TAMPERED")
        assert "does not continue the one of" in failed["message"]
        assert not [event for event in daemon.events if event.get("serving")]
        assert "otahsm ledger accept" in failed["hint"]
        assert "does not continue" in await refusal(daemon)
        daemon.stop()
    ledger.write_bytes(newer)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await issued(daemon, 1)
        assert daemon.stop() == 0
