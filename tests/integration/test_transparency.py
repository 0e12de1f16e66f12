"""Checkpoints and proofs of a running daemon: the verifier key alone verifies them, and no changed one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing

import grpc
import pytest

from otahsm.client import Client, IssuedCertificate
from otahsm.client.connection import open_channel
from otahsm.errors import (
    ConfigError,
    EvidenceError,
    LedgerTamperedError,
    NotFoundError,
    OtahsmError,
)
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import (
    ConsistencyProof,
    InclusionProof,
    VerifierKey,
    open_checkpoint,
    parse_leaf,
)
from otahsm.v1 import transparency_pb2 as pb
from otahsm.v1.transparency_pb2_grpc import TransparencyServiceStub

from support.devices import issue_all, issued, new_requests
from support.harness import READY_SECONDS, Fleet, RunningDaemon, eventually, running
from support.ledger_reader import event_count, key_of, verified


def client_of(daemon: RunningDaemon) -> Client:
    return Client(daemon.address, daemon.fleet.tls, patience=10)


def tamper(fleet: Fleet, *statements: str) -> None:
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.fixture
async def transparency(shared_daemon: RunningDaemon) -> AsyncIterator[Client]:
    async with client_of(shared_daemon) as client:
        yield client


async def test_every_certificate_can_be_proven_the_moment_a_client_has_it(
    shared_daemon: RunningDaemon, transparency: Client
) -> None:
    key = key_of(shared_daemon.fleet)
    for certificate in await issued(shared_daemon, 5):
        proof = InclusionProof.parse(await transparency.transparency.prove_inclusion(certificate.serial))
        assert proof.verify(proof.extra, key).origin == key.name
        leaf = parse_leaf(proof.extra)
        assert leaf["der"] == certificate.chain[0].hex()
        assert leaf["device_id"] == certificate.device_id
        assert leaf["client"] == "cn:quickstart"


async def test_no_changed_proof_verifies(shared_daemon: RunningDaemon, transparency: Client) -> None:
    certificates = await issued(shared_daemon, 5)
    old = open_checkpoint(
        await transparency.transparency.checkpoint(make_new=True), key_of(shared_daemon.fleet)
    )
    await issued(shared_daemon, 3)
    inclusion = await transparency.transparency.prove_inclusion(certificates[0].serial)
    consistency = await transparency.transparency.prove_consistency(old.size)
    key = key_of(shared_daemon.fleet)

    def included(octets: bytes) -> None:
        proof = InclusionProof.parse(octets)
        proof.verify(proof.extra, key)

    def grown(octets: bytes) -> None:
        ConsistencyProof.parse(octets).verify(old, key)

    for proof, check in ((inclusion, included), (consistency, grown)):
        check(proof)
        for at in range(len(proof)):
            for changed in (
                proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :],
                proof[:at] + proof[at + 1 :],
            ):
                with pytest.raises(EvidenceError):
                    check(changed)


async def test_the_log_is_proven_to_have_only_grown(
    shared_daemon: RunningDaemon, transparency: Client
) -> None:
    key = key_of(shared_daemon.fleet)
    await issued(shared_daemon, 1)
    notes = [await transparency.transparency.checkpoint(make_new=True)]
    for count in (1, 4, 9):
        await issued(shared_daemon, count)
        notes.append(await transparency.transparency.checkpoint(make_new=True))
    checkpoints = [open_checkpoint(note, key) for note in notes]
    for old in checkpoints:
        proof = ConsistencyProof.parse(await transparency.transparency.prove_consistency(old.size))
        assert proof.verify(old, key).size >= checkpoints[-1].size


async def test_a_proof_of_growth_reaches_beyond_the_checkpoint_that_it_begins_with(
    shared_daemon: RunningDaemon, transparency: Client
) -> None:
    old = open_checkpoint(
        await transparency.transparency.checkpoint(make_new=True), key_of(shared_daemon.fleet)
    )
    await issued(shared_daemon, 2)
    proof = ConsistencyProof.parse(await transparency.transparency.prove_consistency(old.size))
    assert proof.verify(old, key_of(shared_daemon.fleet)).size >= old.size + 2


async def test_what_the_log_does_not_hold_can_not_be_proven(transparency: Client) -> None:
    with pytest.raises(NotFoundError):
        await transparency.transparency.prove_inclusion(SerialNumber(17))
    with pytest.raises(OtahsmError, match="not 1000000000"):
        await transparency.transparency.prove_consistency(10**9)


@pytest.mark.parametrize("octets", [b"", bytes(20), b"\1" * 21])
async def test_nothing_is_proven_of_what_is_no_serial_number(
    shared_daemon: RunningDaemon, octets: bytes
) -> None:
    request = pb.GetInclusionProofRequest(serial_number=octets)
    async with open_channel(shared_daemon.address, shared_daemon.fleet.tls) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="1 to 20 octets"):
            await TransparencyServiceStub(channel).GetInclusionProof(request)


async def test_a_checkpoint_is_made_at_intervals_when_something_is_new(fleet: Fleet) -> None:
    fleet.edit("interval_seconds = 60", "interval_seconds = 1")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await issued(daemon, 3)
        eventually(lambda: all_is_signed(fleet, 3), "no checkpoint is made")
        await issued(daemon, 2)
        eventually(lambda: all_is_signed(fleet, 5), "no second checkpoint is made")
        made = verified(fleet).checkpoints
        assert daemon.stop() == 0
    verdict = verified(fleet)
    assert verdict.good
    assert 2 <= made <= verdict.checkpoints


def all_is_signed(fleet: Fleet, certificates: int) -> bool:
    """Return whether the last checkpoint vouches for so many certificates, and for all events."""
    leaves = certificates + event_count(fleet)
    verdict = verified(fleet)
    return (verdict.leaves, verdict.signed_size, verdict.waiting) == (leaves, leaves, 0)


async def test_what_was_released_is_signed_when_the_daemon_ends(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await issued(daemon, 300)
        assert daemon.stop() == 0
    assert verified(fleet).good
    assert all_is_signed(fleet, 300)


async def test_asking_twice_for_a_new_checkpoint_gives_one(daemon: RunningDaemon) -> None:
    await issued(daemon, 3)
    async with client_of(daemon) as client:
        async with asyncio.timeout(READY_SECONDS):  # an event may come between the two
            while True:
                first, second = await asyncio.gather(
                    *(client.transparency.checkpoint(make_new=True) for _ in range(2))
                )
                if first == second == await client.transparency.checkpoint():
                    break


async def test_a_killed_daemon_leaves_a_ledger_that_verifies(fleet: Fleet) -> None:
    fleet.edit("interval_seconds = 60", "interval_seconds = 1")
    seen = 0
    for _ in range(3):
        with running(fleet) as daemon:
            daemon.wait_for("health.changed", serving=True)
            async with daemon.client(patience=0) as client:
                with contextlib.suppress(OtahsmError):
                    got = 0
                    async for result in client.issuance.issue(new_requests(3000)):
                        got += isinstance(result, IssuedCertificate)
                        if got == 700:
                            daemon.kill()
                seen += got
        assert verified(fleet).good
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        assert daemon.stop() == 0
    verdict = verified(fleet)
    assert verdict.good
    assert verdict.waiting == 0
    assert verdict.leaves == verdict.signed_size
    assert verdict.leaves >= seen


async def test_without_a_section_the_tree_is_kept_and_nothing_is_signed(fleet: Fleet) -> None:
    toml = fleet.toml.read_text()
    before, _, rest = toml.partition("[checkpoint]\n")
    fleet.toml.write_text(before + "[issuance]" + rest.partition("[issuance]")[2])
    assert fleet.config.checkpoint is None
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        certificates = await issued(daemon, 3)
        async with client_of(daemon) as client:
            with pytest.raises(ConfigError, match="signs no checkpoints"):
                await client.transparency.checkpoint(make_new=True)
            with pytest.raises(ConfigError, match="signs no checkpoints"):
                await client.transparency.prove_inclusion(certificates[0].serial)
        eventually(lambda: verified(fleet).leaves == 3 + event_count(fleet), "the tree does not grow")
        assert daemon.stop() == 0
    assert verified(fleet).good


async def test_a_tree_that_does_not_follow_from_what_was_signed_is_not_signed(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        certificates = await issued(daemon, 5)
        async with client_of(daemon) as client:
            note = await client.transparency.checkpoint(make_new=True)
            tamper(fleet, "UPDATE leaves SET hash = zeroblob(32) WHERE leaf_index = 4")
            await issued(daemon, 1)
            with pytest.raises(
                LedgerTamperedError, match=r"does not extend the one that was signed at \d+ leaves"
            ):
                await client.transparency.checkpoint(make_new=True)
            with pytest.raises(LedgerTamperedError):
                await client.transparency.prove_inclusion(certificates[0].serial)
            assert await client.transparency.checkpoint() == note
        daemon.wait_for("transparency.failed", reason="LEDGER_TAMPERED")
        daemon.wait_for("health.changed", serving=False)
        async with daemon.client() as issuing:
            _, (refused,) = await issue_all(issuing, new_requests(1))
        assert isinstance(refused.error, LedgerTamperedError)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fleet: (fleet.folder / "ca/checkpoint.vkey").unlink(), "otahsm ledger init-key"),
        (lambda fleet: (fleet.folder / "ca/checkpoint.vkey").write_text("x"), "verifier key"),
        (lambda fleet: fleet.edit('origin = "quickstart', 'origin = "another'), "is for the log quickstart"),
        (lambda fleet: fleet.edit("id=%C1", "id=%01"), "a label (object) and an id that differ"),
    ],
)
def test_a_daemon_does_not_start_with_a_checkpoint_key_that_can_not_be(
    fleet: Fleet, change: Callable[[Fleet], object], said: str
) -> None:
    change(fleet)
    with running(fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 2
    done = fleet.run("serve")
    assert said in done.stderr


def test_a_key_that_the_token_has_not_got_is_named(fleet: Fleet) -> None:
    fleet.edit("object=ledger-checkpoint", "object=no-such-key")
    with running(fleet) as daemon:
        (failed, *_) = daemon.wait_for("signer.failed")
        assert "no private key in the token matches pkcs11:object=no-such-key;id=%C1" in failed["message"]


async def test_a_new_key_signs_on_and_the_old_one_still_verifies_what_it_signed(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        certificates = await issued(daemon, 3)
        assert daemon.stop() == 0
    old = key_of(fleet)
    fleet.edit('verifier_key = "ca/checkpoint.vkey"', 'verifier_key = "ca/new.vkey"')
    fleet.edit("object=ledger-checkpoint", "object=new")
    fleet.edit("id=%C1", "id=%C2")
    done = fleet.run("ledger", "init-key")
    assert "until you have run `otahsm ledger join`" in done.stderr
    done = fleet.run("ledger", "join", "--expect", "3")
    assert done.returncode == 4
    assert "name the former one with --key" in done.stderr
    done = fleet.run("ledger", "join", "--expect", "3", "--key", "ca/checkpoint.vkey")
    assert done.returncode == 0, done.stderr
    new = VerifierKey.parse((fleet.folder / "ca/new.vkey").read_text().strip())
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with client_of(daemon) as client:
            size = open_checkpoint(await client.transparency.checkpoint(), new).size
            assert size >= 3
            proof = InclusionProof.parse(await client.transparency.prove_inclusion(certificates[0].serial))
            assert proof.verify(proof.extra, new).size == size
            await issued(daemon, 2)
            assert open_checkpoint(await client.transparency.checkpoint(make_new=True), new).size >= size + 2
        assert daemon.stop() == 0
    keys = [part for path in ("checkpoint", "new") for part in ("--key", f"ca/{path}.vkey")]
    assert fleet.run("ledger", "verify", *keys).returncode == 0
    done = fleet.run("ledger", "verify")
    assert done.returncode == 1
    assert re.search(r"checkpoint \d+: None of the trusted keys signed the note", done.stdout)
    assert old.name == new.name
