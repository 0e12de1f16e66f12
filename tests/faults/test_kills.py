"""kill -9, of a signer, a preparer and the daemon, in the middle of a stream (I1, I2, I3, I8)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from otahsm.client import Batch, CertificateRequest, Client, IdScheme, IssuedCertificate
from otahsm.client.connection import open_channel
from otahsm.client.rpc_errors import from_rpc
from otahsm.errors import DaemonUnavailableError, OtahsmError, ShuttingDownError
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

from support.devices import issue_all, new_request, new_requests
from support.harness import (
    OTAHSM,
    READY_SECONDS,
    Fleet,
    RunningDaemon,
    eventually,
    free_port,
    is_running,
    running,
)
from support.ledger_reader import certificates, events, rows


@pytest.mark.parametrize("kind", [RunningDaemon.signers, RunningDaemon.preparers])
async def test_a_worker_that_is_killed_costs_no_client_anything(
    daemon: RunningDaemon, kind: Callable[[RunningDaemon], list[int]]
) -> None:
    requests = new_requests(1500)
    issued: list[IssuedCertificate] = []
    killed: set[int] = set()
    async with daemon.client(patience=30) as client:
        async for result in client.issuance.issue(requests):
            assert isinstance(result, IssuedCertificate)
            issued.append(result)
            if len(issued) in (100, 600, 1100):
                # The successor of the one before may only be starting.
                await asyncio.to_thread(
                    eventually,
                    lambda: bool(set(kind(daemon)) - killed),
                    "nobody takes the place of who was killed",
                )
                victim = next(pid for pid in kind(daemon) if pid not in killed)
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
    assert len(killed) == 3
    assert {result.device_id for result in issued} == {request.device_id for request in requests}
    assert certificates(daemon.fleet) == {result.device_id: result.chain[0] for result in issued}
    assert daemon.stop() == 0


async def test_all_signers_killed_at_once_are_replaced_and_the_client_waits(daemon: RunningDaemon) -> None:
    daemon.wait_for("signer.ready", count=2)
    async with daemon.client(patience=30) as client:
        for pid in daemon.signers():
            os.kill(pid, signal.SIGKILL)
        issued, refused = await issue_all(client, new_requests(200))
    assert len(issued) == 200
    assert not refused
    assert len(certificates(daemon.fleet)) == 200


async def test_the_daemon_killed_in_mid_stream_loses_nothing_that_a_client_has_seen(fleet: Fleet) -> None:
    requests = new_requests(1000)
    seen: dict[str, bytes] = {}
    for kill_after in (1, 150, 400):
        with running(fleet) as daemon:
            daemon.wait_for("health.changed", serving=True)
            workers = [*daemon.signers(), *daemon.preparers()]
            async with daemon.client(patience=0) as client:
                await _issue_until_killed(client, requests, seen, daemon, kill_after)
        # What a client has seen is in the ledger, byte for byte, whatever else is.
        recorded = certificates(fleet)
        assert {device: recorded[device] for device in seen} == seen
        eventually(lambda: not any(map(is_running, workers)), "workers outlive their daemon")  # noqa: B023
    with running(fleet) as daemon:
        async with daemon.client() as client:
            issued, refused = await issue_all(client, requests)
        assert not refused
        assert daemon.stop() == 0
    again = {result.device_id: result.chain[0] for result in issued}
    assert {device: again[device] for device in seen} == seen
    assert again == certificates(fleet)
    everything = rows(fleet)
    assert len({row.serial for row in everything}) == len(everything)
    assert all((row.certificate is None) == (row.void_reason is not None) for row in everything)


async def _issue_until_killed(
    client: Client,
    requests: list[CertificateRequest],
    seen: dict[str, bytes],
    daemon: RunningDaemon,
    kill_after: int,
) -> None:
    count = 0
    with contextlib.suppress(DaemonUnavailableError):
        async for result in client.issuance.issue(requests):
            if isinstance(result, IssuedCertificate):
                assert seen.setdefault(result.device_id, result.chain[0]) == result.chain[0]
                count += 1
            else:
                assert result.code == "UNAVAILABLE"
            if count == kill_after:
                daemon.kill()
    assert count >= kill_after


async def test_sigterm_answers_what_was_read_and_exits_with_0(fleet: Fleet) -> None:
    requests = new_requests(640)
    seen: dict[str, bytes] = {}
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with open_channel(daemon.address, fleet.tls) as channel:
            stub: issuance_pb2_grpc.IssuanceServiceAsyncStub = issuance_pb2_grpc.IssuanceServiceStub(channel)
            call = stub.IssueCertificates()
            # All is written before the daemon is told: no write is under way when the call ends.
            for first in range(0, len(requests), 64):
                chunk = [request.message(request.device_id, "") for request in requests[first : first + 64]]
                await call.write(issuance_pb2.IssueCertificatesRequest(requests=chunk))
            ended: OtahsmError | None = None
            try:
                async for response in call:
                    for result in response.results:
                        seen[result.request_id] = result.certificate.chain[0]
                    daemon.process.send_signal(signal.SIGTERM)
            except grpc.aio.AioRpcError as error:
                ended = from_rpc(error, "")
        assert isinstance(ended, ShuttingDownError)
        assert daemon.process.wait(READY_SECONDS) == 0
        daemon.wait_for("daemon.stopped")
    # All that was begun was finished, recorded and sent: no intent is open, no certificate unseen.
    assert seen
    assert certificates(fleet) == seen
    assert len(rows(fleet)) == len(seen)


async def test_a_client_in_mid_stream_of_a_daemon_that_stops_has_what_it_is_told(fleet: Fleet) -> None:
    requests = new_requests(2000)
    seen: dict[str, bytes] = {}
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client(patience=0) as client:
            with contextlib.suppress(DaemonUnavailableError, ShuttingDownError):
                async for result in client.issuance.issue(requests):
                    if isinstance(result, IssuedCertificate):
                        seen[result.device_id] = result.chain[0]
                    else:
                        assert result.code == "UNAVAILABLE", result.error
                    if len(seen) == 100:
                        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(READY_SECONDS) == 0
    # gRPC's client drops the last answers when the end of a call overtakes what it writes.
    recorded = certificates(fleet)
    assert 100 <= len(seen) < len(requests)
    assert {device: recorded[device] for device in seen} == seen
    assert len(rows(fleet)) == len(recorded)


def test_a_second_daemon_on_the_same_ledger_is_refused(daemon: RunningDaemon) -> None:
    with running(daemon.fleet) as second:
        assert second.process.wait(READY_SECONDS) == 2
        second.reader.join(READY_SECONDS)
        assert "another daemon holds the ledger" in "".join(second.other_output)


@pytest.mark.parametrize("gone", ["a pipe that nobody reads", "a disk that is full"])
def test_a_log_that_can_not_be_written_stops_nothing(fleet: Fleet, gone: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    fleet.edit('listen = "127.0.0.1:0"', f'listen = "{address}"')
    fleet.toml.write_text(re.sub(r'target = ".*"', f'target = "{address}"', fleet.toml.read_text()))
    full = Path("/dev/full").open("w")  # noqa: SIM115 - for as long as the daemon runs
    pipe = subprocess.PIPE if gone == "a pipe that nobody reads" else full
    daemon = subprocess.Popen([*OTAHSM, "serve"], cwd=fleet.folder, stderr=pipe, text=True)
    try:
        if daemon.stderr is not None:
            assert any('"serving": true' in line for line in daemon.stderr)
            daemon.stderr.close()
        assert fleet.run("health", "--wait", "60").returncode == 0
        done = fleet.run("device", "issue", "--count", "3")
        assert done.returncode == 0, done.stderr
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(READY_SECONDS) == 0
    finally:
        daemon.kill()
        full.close()
    assert len(certificates(fleet)) == 3


async def _reset(client: Client) -> None:
    await client.issuance.reset_device("device-1")


async def _create(client: Client) -> None:
    await client.batches.create(Batch("new", 5, IdScheme("uuid4")))


async def _close(client: Client) -> None:
    await client.batches.create(Batch("old", 5, IdScheme("uuid4")))
    await client.batches.close("old")


@pytest.mark.parametrize(
    ("name", "change", "details"),
    [
        ("device.reset", _reset, {"device": "device-1"}),
        ("batch.created", _create, {"batch": "new", "devices": 5}),
        ("batch.closed", _close, {"batch": "old", "issued": 0}),
    ],
)
async def test_a_daemon_killed_right_after_an_operators_change_has_written_who_made_it(
    fleet: Fleet, name: str, change: Callable[[Client], Awaitable[None]], details: dict[str, Any]
) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            (issued,), _ = await issue_all(client, [new_request("device-1")])
            with _slow_down(fleet, name):
                await change(client)
                daemon.kill()
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        assert daemon.stop() == 0
    if name == "device.reset":
        details |= {"superseded": issued.serial.hex()}
    assert events(fleet, name) == [("cn:quickstart", details)]


@contextmanager
def _slow_down(fleet: Fleet, name: str) -> Iterator[None]:
    """Make writing an event take so long that who answers before it is durable is killed before it is."""
    assert fleet.config.ledger is not None
    assert fleet.config.ledger.path is not None
    with closing(sqlite3.connect(fleet.config.ledger.path)) as database, database:
        database.execute(
            f"CREATE TRIGGER slow AFTER INSERT ON events WHEN NEW.name = '{name}'"
            " BEGIN SELECT length(randomblob(200000000)); END"
        )
    yield
    with closing(sqlite3.connect(fleet.config.ledger.path)) as database, database:
        database.execute("DROP TRIGGER slow")  # with it, no daemon starts
