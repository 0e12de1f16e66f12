"""What `otahsm serve` says when it can't, and what it does when it can."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import grpc
import pytest
from asn1crypto import pem

from otahsm.client import CertificateRequest, ClientTls, IssuedCertificate, Refusal
from otahsm.daemon.edge.server import FITTING
from otahsm.errors import DaemonUnavailableError

from support.authority import root_of
from support.devices import issue_all, new_request, new_requests
from support.harness import READY_SECONDS, Fleet, RunningDaemon, running
from support.ledger_reader import certificates


def replace_line(old: str, new: str) -> Callable[[Fleet], None]:
    return lambda fleet: fleet.edit(old, new)


def remove(path: str) -> Callable[[Fleet], None]:
    return lambda fleet: (fleet.folder / path).unlink()


def crls_from_a_root_that_signs_none(fleet: Fleet) -> None:
    fleet.root_pem.write_bytes(pem.armor("CERTIFICATE", root_of("ec-p256", "root-here")))
    with fleet.toml.open("a") as toml:
        toml.write('[crl]\nurl = "http://crl.example.com/fleet.crl"\ndirectory = "crl"\n')


def copy(source: str, target: str) -> Callable[[Fleet], None]:
    def change(fleet: Fleet) -> None:
        shutil.copy(fleet.folder / source, fleet.folder / target)

    return change


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (replace_line("[token]\n", "[token]\nslots = 3\n"), 2, "token.slots"),
        (replace_line("[ledger]\n", "[lodger]\n"), 2, "lodger"),
        (replace_line("signers = 1", "signers = 0"), 2, "token.signers"),
        (replace_line('default_profile = "ota-connect"', 'default_profile = "x"'), 2, "no [profiles.x]"),
        (
            replace_line("subject = []", 'subject = ["C=germany"]'),
            2,
            "[profiles.ota-connect] subject: C would",
        ),
        (replace_line("libsofthsm2.so", "libnone.so"), 2, "libnone.so does not exist"),
        (remove("ca/fleet-root.pem"), 2, "otahsm ca init"),
        (remove("tls/server.key"), 2, "tls/server.key: No such file"),
        (remove("secrets/pin"), 2, "can't read the PIN file"),
        (copy("tls/server.pem", "ca/fleet-root.pem"), 2, "is not a CA certificate"),
        (crls_from_a_root_that_signs_none, 2, "may not sign CRLs, which [crl] requires"),
        (copy("gateway/server.key", "tls/server.key"), 2, "don't belong together"),
        (copy("ca/fleet-root.pem", "tls/operator-ca.pem"), 2, "every device could issue"),
        (copy("otahsm.toml", "tls/operator-ca.pem"), 2, "tls/operator-ca.pem is not a certificate in PEM"),
    ],
)
def test_a_daemon_that_can_not_serve_says_why_in_one_sentence_and_what_to_do(
    fleet: Fleet, change: Callable[[Fleet], None], status: int, said: str
) -> None:
    change(fleet)
    with running(fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == status
        daemon.reader.join(10)
        output = "".join(daemon.other_output)
    assert output.startswith("otahsm: ")
    assert said in output
    assert "Traceback" not in output


OTHER_GRPCIO = """
import runpy, sys
from grpc._cython import cygrpc
del cygrpc._schedule_rpc_coro
sys.argv = ["otahsm", "serve"]
runpy.run_module("otahsm", run_name="__main__")
"""


def test_a_grpcio_that_does_not_fit_is_refused_and_those_that_fit_are_named(fleet: Fleet) -> None:
    command = [sys.executable, "-P", "-c", OTHER_GRPCIO]
    ended = subprocess.run(command, cwd=fleet.folder, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"otahsm can't serve with grpcio {grpc.__version__}: " in ended.stderr
    assert "_schedule_rpc_coro" in ended.stderr
    assert f"pip install 'grpcio{FITTING}'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_said(fleet: Fleet) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fleet.edit("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}")
        with running(fleet) as daemon:
            assert daemon.process.wait(READY_SECONDS) == 2
            daemon.reader.join(10)
            output = "".join(daemon.other_output)
            assert re.search(r"can't listen on 127\.0\.0\.1:\d+: Address already in use", output)
            assert "add_port" not in output + str(daemon.events)  # which is gRPC's


def test_a_ca_certificate_of_another_key_never_serves(fleet: Fleet) -> None:
    fleet.edit("object=fleet-root;id=%01", "object=other;id=%02")
    fleet.edit("ca/fleet-root.pem", "ca/other.pem")
    assert fleet.run("ca", "init", "--name", "Other").returncode == 0
    fleet.edit("ca/other.pem", "ca/fleet-root.pem")
    with running(fleet) as daemon:
        failed = daemon.wait_for("signer.failed", count=2)
        assert "does not verify with the public key" in failed[0]["message"]
        assert not [event for event in daemon.events if event["event"] == "health.changed"]


async def test_a_token_that_is_away_at_the_start_is_waited_for(fleet: Fleet) -> None:
    away = fleet.folder / "token/away"
    tokens = fleet.folder / "token/tokens"
    tokens.rename(away)
    tokens.mkdir()
    with running(fleet) as daemon:
        (failed, *_) = daemon.wait_for("signer.failed")
        assert "no token matches pkcs11:token=otahsm-quickstart; the module shows none" in failed["message"]
        tokens.rmdir()
        away.rename(tokens)
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)


def test_it_logs_what_it_serves_from_which_token_under_which_ca(daemon: RunningDaemon) -> None:
    (event,) = daemon.wait_for("daemon.listening")
    assert event["token"] == "pkcs11:token=otahsm-quickstart"
    assert event["ca"] == "CN=otahsm quickstart fleet root"
    assert event["key"] == "pkcs11:object=fleet-root;id=%01"
    assert event["profiles"] == ["ota-connect"]
    assert daemon.other_output == []


async def test_what_others_print_to_standard_error_becomes_an_event_too(daemon: RunningDaemon) -> None:
    daemon.wait_for("signer.ready")
    # gRPC's core writes a line of its own about a client that it turns away.
    gateway = daemon.fleet.folder / "gateway"
    stranger = ClientTls(daemon.fleet.tls.ca, gateway / "server.pem", gateway / "server.key")
    async with daemon.client(patience=0, tls=stranger) as client:
        with pytest.raises(DaemonUnavailableError):
            await client.issuance.authority()
    (said, *_) = daemon.wait_for("stderr")
    assert "andshake failed" in said["text"]
    os.kill(daemon.signers()[0], signal.SIGABRT)
    daemon.wait_for("signer.lost")
    assert daemon.stop() == 0
    assert daemon.other_output == []


async def test_a_full_disk_is_said_nothing_is_lost_and_issuing_goes_on_when_there_is_room(
    daemon: RunningDaemon,
) -> None:
    async with daemon.client(patience=0) as client:
        before, _ = await issue_all(client, new_requests(64))
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        ledger = daemon.fleet.config.ledger
        assert ledger is not None
        assert ledger.path is not None
        # No file of the daemon's may grow: for SQLite the disk is full.
        size = max(path.stat().st_size for path in ledger.path.parent.iterdir())
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        requests = new_requests(600)
        first, refused = await issue_all(client, requests)
        assert refused
        assert {refusal.reason for refusal in refused} == {"LEDGER_UNAVAILABLE"}
        daemon.wait_for("ledger.unavailable")
        daemon.wait_for("health.changed", serving=False)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)
        daemon.wait_for("health.changed", count=2, serving=True)
        again, refused = await issue_all(client, requests)
        assert not refused
    now = {result.device_id: result.chain[0] for result in (*before, *again)}
    assert {result.device_id: result.chain[0] for result in first}.items() <= now.items()
    assert certificates(daemon.fleet) == now
    assert daemon.stop() == 0


async def test_an_unknown_profile_is_refused_by_name(daemon: RunningDaemon) -> None:
    async with daemon.client() as client:
        result = await client.issuance.issue_one(new_request().csr, profile="gold")
    assert isinstance(result, Refusal)
    assert result.code == "INVALID_ARGUMENT"
    assert "'gold'" in result.message
    assert "ota-connect" in result.message


@pytest.mark.parametrize("request_id", ["with space", "x" * 129, "tab\t", "Käse"])
async def test_a_request_id_that_is_no_identifier_is_refused(daemon: RunningDaemon, request_id: str) -> None:
    async with daemon.client() as client:
        request = CertificateRequest(new_request().csr, request_id=request_id)
        (result,) = [result async for result in client.issuance.issue([request])]
    assert isinstance(result, Refusal)
    assert result.code == "INVALID_ARGUMENT"


async def test_the_csr_must_be_for_the_device_that_the_client_names(daemon: RunningDaemon) -> None:
    async with daemon.client() as client:
        result = await client.issuance.issue_one(new_request("one").csr, device_id="another")
    assert isinstance(result, Refusal)
    assert "'one'" in result.message
    assert "'another'" in result.message


def test_nothing_of_the_daemon_is_left_when_it_has_ended(daemon: RunningDaemon) -> None:
    daemon.wait_for("signer.ready")
    pids = [*daemon.signers(), *daemon.preparers()]
    assert daemon.stop() == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
