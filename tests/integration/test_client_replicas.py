"""A client of several daemons: requests go to those that can sign, and come back from those that are gone.

The daemons here have a ledger each, so a certificate's place tells who issued it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from otahsm.client import Client, IssuedCertificate
from otahsm.client.connection import open_channel
from otahsm.client.replicas import BALANCED
from otahsm.errors import ConfigError, DaemonUnavailableError
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

from support.devices import issue_all, new_request, new_requests
from support.harness import READY_SECONDS, Fleet, RunningDaemon, eventually, free_port, running
from support.ledger_reader import certificates, rows


@pytest.fixture
def pair(make_fleet: Callable[[], Fleet]) -> Iterator[tuple[RunningDaemon, RunningDaemon]]:
    """Two daemons that serve; their clients may be the same."""
    with running(make_fleet()) as one, running(make_fleet()) as other:
        for daemon in (one, other):
            daemon.wait_for("health.changed", serving=True)
        yield one, other


@contextmanager
def no_token(daemon: RunningDaemon) -> Iterator[None]:
    """Take a daemon's token away; it runs on, and can't sign."""
    tokens, away = (daemon.fleet.folder / "token" / name for name in ("tokens", "away"))
    tokens.rename(away)
    tokens.mkdir()
    for pid in daemon.signers():
        os.kill(pid, signal.SIGKILL)
    daemon.wait_for("health.changed", serving=False)
    yield
    tokens.rmdir()
    away.rename(tokens)
    daemon.wait_for("health.changed", count=2, serving=True)


def client_of(*daemons: RunningDaemon, patience: float = 10) -> Client:
    return Client([daemon.address for daemon in daemons], daemons[0].fleet.tls, patience=patience)


async def test_streams_take_turns_between_daemons_that_serve(
    pair: tuple[RunningDaemon, RunningDaemon],
) -> None:
    async with client_of(*pair) as client:
        async with asyncio.timeout(READY_SECONDS):
            while not all(rows(daemon.fleet) for daemon in pair):  # both are connected
                await client.issuance.issue_one(new_request().csr)
        before = [len(certificates(daemon.fleet)) for daemon in pair]
        for _ in range(4):
            await issue_all(client, new_requests(5))
    assert [len(certificates(daemon.fleet)) for daemon in pair] == [number + 10 for number in before]


async def test_a_daemon_that_can_not_sign_gets_no_stream_until_it_can(
    pair: tuple[RunningDaemon, RunningDaemon],
) -> None:
    one, other = pair
    async with client_of(one, other, patience=0) as client:
        with no_token(one):
            for _ in range(4):
                issued, refused = await issue_all(client, new_requests(5))
                assert (len(issued), len(refused)) == (5, 0)
            assert rows(one.fleet) == []
            assert len(certificates(other.fleet)) == 20
        async with asyncio.timeout(READY_SECONDS):
            while not rows(one.fleet):  # it is asked again by itself
                assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)


async def test_a_daemon_that_can_not_sign_says_why_if_there_is_no_other(fleet: Fleet) -> None:
    fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.1")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        with no_token(daemon):
            targets = [f"127.0.0.1:{free_port()}", daemon.address, f"127.0.0.1:{free_port()}"]
            async with Client(targets, fleet.tls, patience=0) as client:
                assert not await client.wait_until_serving(0)
                for _ in range(3):
                    _, (refusal,) = await issue_all(client, [new_request()])
                    assert refusal.reason == "TOKEN_UNAVAILABLE"


async def test_a_daemon_killed_in_mid_stream_costs_nothing_that_the_other_can_do(
    pair: tuple[RunningDaemon, RunningDaemon],
) -> None:
    seen: dict[str, bytes] = {}
    killed: RunningDaemon | None = None
    async with client_of(*pair) as client:
        async for result in client.issuance.issue(new_requests(1000)):
            assert isinstance(result, IssuedCertificate)
            assert result.device_id not in seen
            seen[result.device_id] = result.chain[0]
            if len(seen) == 200:
                (killed,) = (daemon for daemon in pair if rows(daemon.fleet))
                killed.kill()
    assert killed is not None
    (alive,) = (daemon for daemon in pair if daemon is not killed)
    first, second = certificates(killed.fleet), certificates(alive.fleet)
    assert len(seen) == 1000
    assert len(second) <= 800
    for device_id, certificate in seen.items():
        assert certificate in (first.get(device_id), second.get(device_id))
    # What had no answer was asked again of the other, whatever the first had done about it.
    assert {device_id for device_id, certificate in seen.items() if first.get(device_id) != certificate} == (
        second.keys()
    )


async def test_an_address_where_nobody_listens_costs_no_patience(daemon: RunningDaemon) -> None:
    targets = [f"127.0.0.1:{free_port()}", daemon.address, f"localhost:{free_port()}"]
    for _ in range(4):
        async with Client(targets, daemon.fleet.tls, patience=0) as client:
            assert await client.wait_until_serving(0)
            assert (await client.issuance.authority()).ready_signers > 0
            issued, refused = await issue_all(client, new_requests(3))
            assert (len(issued), len(refused)) == (3, 0)


async def test_each_daemon_must_be_the_one_that_its_own_address_names(fleet: Fleet) -> None:
    fleet.edit('listen = "127.0.0.1:0"', 'listen = "0.0.0.0:0"')
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        port = daemon.address.rpartition(":")[2]
        named, also_named, not_named = (f"{host}:{port}" for host in ("127.0.0.1", "localhost", "127.0.0.2"))
        async with Client([named, also_named], fleet.tls, patience=0) as client:
            for _ in range(4):
                assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)
        async with Client([not_named], fleet.tls, patience=0) as client:
            with pytest.raises(DaemonUnavailableError, match=r"127\.0\.0\.2"):
                await client.issuance.authority()
        async with Client([not_named, named], fleet.tls, patience=0) as client:
            for _ in range(4):
                assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)


async def test_one_name_with_several_addresses_is_balanced_and_its_daemons_health_is_watched(
    pair: tuple[RunningDaemon, RunningDaemon],
) -> None:
    one, other = pair
    # Two addresses under one name, without a name server.
    target = f"ipv4:{one.address},{other.address}"

    async def ask(channel: grpc.aio.Channel) -> None:
        stub: issuance_pb2_grpc.IssuanceServiceAsyncStub = issuance_pb2_grpc.IssuanceServiceStub(channel)
        request = issuance_pb2.CertificateRequest(csr=new_request().csr)
        answer = await stub.IssueCertificate(issuance_pb2.IssueCertificateRequest(request=request))
        assert answer.HasField("certificate")

    async with open_channel(target, one.fleet.tls, "localhost", options=BALANCED) as channel:
        async with asyncio.timeout(READY_SECONDS):
            while not all(rows(daemon.fleet) for daemon in pair):
                await ask(channel)
    with no_token(one):
        before = len(rows(one.fleet))
        async with open_channel(target, one.fleet.tls, "localhost", options=BALANCED) as channel:
            for _ in range(6):
                await ask(channel)
        assert len(rows(one.fleet)) == before


def test_a_client_needs_an_address(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="no daemon to call"):
        Client([], fleet.tls)


def test_a_list_in_the_file_leads_to_the_daemon_that_serves(daemon: RunningDaemon, tmp_path: Path) -> None:
    dead = f"127.0.0.1:{free_port()}"
    daemon.configure_client()
    daemon.fleet.edit(f'target = "{daemon.address}"', f'target = ["{dead}", "{daemon.address}"]')
    assert daemon.fleet.run("health").stdout == "SERVING\n"
    done = daemon.fleet.run(
        "device", "issue", "--count", "3", "--patience", "0", "--out", str(tmp_path / "devices")
    )
    assert done.returncode == 0, done.stderr
    eventually(lambda: len(certificates(daemon.fleet)) == 3, "not issued")
