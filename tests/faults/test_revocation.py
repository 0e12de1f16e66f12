"""Revocation when daemons are killed, and when there are several: nothing is taken back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from otahsm.client import Client, IssuedCertificate, NotRevoked, Revoked, ToRevoke
from otahsm.config import section
from otahsm.errors import DaemonUnavailableError, ExitCode, LedgerUnavailableError, OtahsmError
from otahsm.ledger import CrlReader, database_of
from otahsm.pki.crls.building import Reason
from otahsm.pki.crls.reading import describe_crl

from support.devices import issue_all, new_requests
from support.harness import Fleet, RunningDaemon, eventually, running
from support.postgres import PostgresServer

FILES = ("fleet.crl", "complete.crl", "complete.pem")


def configure(fleet: Fleet, directory: str = "crl") -> Fleet:
    text = fleet.toml.read_text().partition("\n[crl]\n")[0]
    fleet.toml.write_text(
        f'{text}\n[crl]\nurl = "http://crl.example.com/fleet.crl"\ndirectory = "{directory}"\n'
    )
    return fleet


def keep_ledger_in(server: PostgresServer, fleet: Fleet) -> None:
    fleet.edit(
        'path = "ledger/ledger.sqlite3"',
        f'url = "{server.create_database()}"\npassword_file = "{server.password_file}"',
    )


def revoking(daemon: RunningDaemon, patience: float = 10) -> Client:
    return Client(daemon.address, daemon.fleet.tls, patience=patience)


async def issue(daemon: RunningDaemon, count: int) -> list[IssuedCertificate]:
    async with daemon.client(patience=60) as client:
        issued, refused = await issue_all(client, new_requests(count))
    assert not refused
    return issued


async def revoke(
    daemon: RunningDaemon, certificates: list[IssuedCertificate], reason: Reason, patience: float = 30
) -> list[Revoked]:
    revoked: list[Revoked] = []
    async with revoking(daemon, patience) as client:
        targets = [ToRevoke(serial=certificate.serial) for certificate in certificates]
        async for outcome in client.revocation.revoke(targets, reason):
            assert not isinstance(outcome, NotRevoked), outcome
            revoked.append(outcome)
    return revoked


def serials_in(path: Path) -> set[int]:
    """Return the serial numbers on a CRL in a file, which must be whole."""
    content = path.read_bytes()
    load = x509.load_pem_x509_crl if content.startswith(b"-----") else x509.load_der_x509_crl
    return {item.serial_number for item in load(content)}


def wait_for_list(path: Path, serials: set[int]) -> None:
    eventually(lambda: serials_in(path) == serials, f"{path} is not written")


async def test_a_daemon_that_is_killed_while_it_makes_crls_takes_nothing_back(fleet: Fleet) -> None:
    """Kill it again and again; look at every file after each time, as a gateway would that loads it then."""
    configure(fleet)
    fleet.lift_quotas()
    folder = fleet.folder / "crl"
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        issued = await issue(daemon, 400)
        daemon.kill()
    numbers = dict.fromkeys(FILES, 0)
    seen: set[int] = set()
    for round_ in range(4):
        with running(fleet) as daemon:
            daemon.wait_for("health.changed", serving=True)
            part = issued[100 * round_ : 100 * (round_ + 1)]
            with contextlib.suppress(OtahsmError):
                async with revoking(daemon, patience=0) as client:
                    for certificate in part:  # one call each: a CRL is always being made
                        targets = [ToRevoke(serial=certificate.serial)]
                        async for outcome in client.revocation.revoke(targets, Reason.KEY_COMPROMISE):
                            assert isinstance(outcome, Revoked)
                            seen.add(outcome.serial)
                        if certificate is part[7 + 11 * round_]:
                            daemon.kill()
        for name in FILES:
            number = describe_crl((folder / name).read_bytes()).number
            assert number is not None
            assert number >= numbers[name]
            numbers[name] = number
            assert serials_in(folder / name) <= {certificate.serial for certificate in issued}
    with running(fleet) as daemon:
        daemon.wait_for("crl.made")
        # What was answered is on the list; and so may be the one whose answer the kill cut off, each time.
        async with revoking(daemon) as client:
            crl = await client.revocation.crl()
        on_the_list = {item.serial_number for item in x509.load_der_x509_crl(crl.der)}
        assert seen <= on_the_list
        assert len(on_the_list - seen) <= 4
        assert crl.number >= max(numbers.values())
        for name in FILES:
            wait_for_list(folder / name, on_the_list)
        assert not list(folder.glob(".new-*"))
        assert daemon.stop() == 0


async def test_what_is_revoked_while_no_signer_lives_is_durable_and_on_the_next_crl(fleet: Fleet) -> None:
    configure(fleet)
    with running(fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        issued = await issue(daemon, 3)
        for pid in daemon.signers():
            os.kill(pid, signal.SIGKILL)
        revoked = await revoke(daemon, issued, Reason.SUPERSEDED)
        serials: set[int] = {item.serial for item in revoked}
        assert serials == {certificate.serial for certificate in issued}
        wait_for_list(fleet.folder / "crl/fleet.crl", serials)
        assert daemon.stop() == 0


async def test_a_revocation_that_the_ledger_can_not_take_now_ends_as_what_may_be_asked_again(
    make_fleet: Callable[[], Fleet], postgres_server_of_my_own: PostgresServer
) -> None:
    server, fleet = postgres_server_of_my_own, make_fleet()
    keep_ledger_in(server, fleet)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        (issued,) = await issue(daemon, 1)
        command = ("revoke", "--device-id", issued.device_id, "--reason", "superseded", "--expect", "1")
        server.kill()
        try:
            with pytest.raises(LedgerUnavailableError, match="can't write the ledger"):
                await revoke(daemon, [issued], Reason.SUPERSEDED, patience=0)
            done = await asyncio.to_thread(fleet.run, *command, "--patience", "0")
            assert done.returncode == ExitCode.UNAVAILABLE, done.stderr
            assert "can't read the ledger" in done.stderr
        finally:
            server.start()
        done = await asyncio.to_thread(fleet.run, *command)
        assert done.returncode == 0, done.stderr
        assert daemon.stop() == 0


@pytest.fixture
def replicated(make_fleet: Callable[[], Fleet], postgres_server: PostgresServer) -> Fleet:
    fleet = make_fleet()
    keep_ledger_in(postgres_server, fleet)
    return fleet


@contextlib.contextmanager
def two_daemons(fleet: Fleet, folders: tuple[str, str] = ("one", "other")) -> Iterator[list[RunningDaemon]]:
    """Run two daemons, each with a folder of its own for CRLs, or with the same."""
    with contextlib.ExitStack() as stack:
        daemons = []
        for name in folders:
            daemons.append(stack.enter_context(running(configure(fleet, name))))
            daemons[-1].wait_for("health.changed", serving=True)
        yield daemons


@pytest.mark.parametrize("folders", [("one", "other"), ("shared", "shared")])
async def test_two_replicas_that_revoke_at_once_agree_and_both_write_what_there_is(
    replicated: Fleet, folders: tuple[str, str]
) -> None:
    replicated.lift_quotas()
    with two_daemons(replicated, folders) as (one, other):
        issued = await issue(one, 400)
        ours, theirs = await asyncio.gather(
            revoke(one, issued[:300], Reason.KEY_COMPROMISE),
            revoke(other, issued[399:99:-1], Reason.SUPERSEDED),
        )
        assert len({item.serial for item in (*ours, *theirs)}) == 400
        reasons: dict[int, Reason] = {}
        new: dict[int, int] = {}
        for item in (*ours, *theirs):
            assert reasons.setdefault(item.serial, item.reason) is item.reason
            new[item.serial] = new.get(item.serial, 0) + (not item.before)
        assert set(new.values()) == {1}  # each was revoked by one of them
        crls = []
        for daemon in (one, other):
            async with revoking(daemon) as client:
                crls.append(await client.revocation.crl())
        assert crls[0] == crls[1]
        loaded = x509.load_der_x509_crl(crls[0].der)
        assert {item.serial_number for item in loaded} == set(new)
        for name in folders:
            path = replicated.folder / name / "complete.pem"
            wait_for_list(path, set(new))
        for daemon in (one, other):
            assert not [event for event in daemon.events if event["event"] == "crl.failed"]
        made = [
            event["number"]
            for daemon in (one, other)
            for event in daemon.events
            if event["event"] == "crl.made"
        ]
        assert crls[0].number == max(made)
        for daemon in (one, other):
            assert daemon.stop() == 0


async def test_who_asks_while_another_daemon_makes_crls_gets_one_with_all_revocations(
    replicated: Fleet,
) -> None:
    with running(configure(replicated)) as daemon:
        daemon.wait_for("crl.written")
        issued = await issue(daemon, 3)
        other = CrlReader(database_of(section(replicated.config.ledger, "ledger")), b"")
        assert other.take_turn()
        await revoke(daemon, issued, Reason.SUPERSEDED)
        async with revoking(daemon, patience=60) as client:
            asked = asyncio.create_task(client.revocation.crl())
            await asyncio.wait({asked}, timeout=3)  # several passes, in which the daemon has no turn
            assert not asked.done()
            other.end_turn()
            assert (await asked).revoked == 3
        other.close()
        assert daemon.stop() == 0


async def test_what_a_killed_replica_revoked_is_on_the_crl_of_the_other(replicated: Fleet) -> None:
    replicated.lift_quotas()
    with two_daemons(replicated) as (victim, survivor):
        issued = await issue(victim, 200)
        seen: set[int] = set()

        async def revoke_until_killed() -> None:
            async with revoking(victim, patience=0) as client:
                for certificate in issued:
                    async for outcome in client.revocation.revoke(
                        [ToRevoke(serial=certificate.serial)], Reason.SUPERSEDED
                    ):
                        assert isinstance(outcome, Revoked)
                        seen.add(outcome.serial)
                    if len(seen) == 50:
                        victim.kill()

        with pytest.raises(DaemonUnavailableError):
            await revoke_until_killed()
        path = replicated.folder / "other" / "complete.crl"
        eventually(lambda: seen <= serials_in(path), "the survivor does not write what the victim revoked")
        rest = await revoke(survivor, issued, Reason.KEY_COMPROMISE)
        assert {item.serial for item in rest if item.before} >= seen
        assert {item.reason for item in rest if item.serial in seen} == {Reason.SUPERSEDED}
        assert survivor.stop() == 0
