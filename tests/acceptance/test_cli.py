"""The `otahsm` command as its users type it: help, quickstart, health, show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.harness import READY_SECONDS, Fleet, free_port, running
from support.programs import Device, issue, openssl, otahsm
from support.zygote import run_command

COMMANDS = (
    "",
    "quickstart",
    "serve",
    "doctor",
    "health",
    "show",
    "ca",
    "ca init",
    "ca show",
    "ca export",
    "ca csr",
    "ca import",
    "ca prove-possession",
    "ca import-key",
    "ca rotate",
    "ca retire",
    "device",
    "device issue",
    "device pack",
    "device reset",
    "device enroll",
    "device install",
    "device register",
    "batch",
    "batch create",
    "batch run",
    "batch status",
    "batch list",
    "batch close",
    "batch report",
    "gateway",
    "gateway show",
    "gateway fetch",
    "cert-provider",
    "csr",
    "csr sign",
    "ledger",
    "ledger list",
    "ledger get",
    "ledger export",
    "ledger stats",
    "ledger reconcile",
    "ledger backup",
    "ledger restore",
    "ledger join",
    "ledger vouch",
    "ledger accept",
    "ledger init-key",
    "ledger verify",
    "ledger checkpoint",
    "ledger prove",
    "ledger prove-consistency",
    "ledger check-proof",
    "revoke",
    "crl",
    "crl show",
    "crl fetch",
    "audit",
    "approve",
    "approve list",
    "approve confirm",
    "approve reject",
    "signer",
    "preparer",
    "policy",
    "policy check",
    "policy explain",
    "client",
    "client deny",
    "client allow",
    "client list",
    "client quota",
    "bench",
    "bench token",
    "bench issue",
)


@pytest.fixture(scope="module")
def help_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("nothing-here")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(
            lambda command: run_command([*command.split(), "--help"], folder, os.environ, READY_SECONDS),
            COMMANDS,
        )
        return dict(zip(COMMANDS, said, strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(
    help_of: dict[str, subprocess.CompletedProcess[str]], command: str
) -> None:
    done = help_of[command]
    assert done.returncode == 0
    assert f"Usage: otahsm {command}".strip() in " ".join(done.stdout.split())
    assert done.stderr == ""


def test_help_lists_no_command_that_is_not_tried_here(
    help_of: dict[str, subprocess.CompletedProcess[str]],
) -> None:
    for group in ("", "approve", "ca", "device", "batch", "gateway", "csr", "ledger", "crl", "bench"):
        _, _, listed = help_of[group].stdout.partition("Commands:")
        assert set(re.findall(r"^  (\S+)", listed, re.MULTILINE)) == {
            command.removeprefix(group).split()[0]
            for command in COMMANDS
            if command.startswith(group) and command != group
        }


def test_quickstart_then_serve_then_issue_is_all_it_takes(tmp_path: Path) -> None:
    done = otahsm("quickstart", "fleet", "--port", str(free_port()), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "otahsm serve" in done.stdout
    fleet = Fleet(tmp_path / "fleet")
    for secret in (
        "secrets/pin",
        "secrets/so-pin",
        "tls/operator-ca.key",
        "tls/server.key",
        "tls/client.key",
    ):
        assert (fleet.folder / secret).stat().st_mode & 0o777 == 0o600
    with running(fleet):
        assert fleet.run("health", "--wait", "30").returncode == 0
        issue(fleet, fleet.folder / "devices", ["dev-1"])
    certificate = fleet.folder / "devices/dev-1/client.pem"
    assert openssl("verify", "-x509_strict", "-CAfile", fleet.root_pem, certificate).good


def test_quickstart_takes_an_empty_folder(tmp_path: Path) -> None:
    done = otahsm("quickstart", tmp_path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "otahsm.toml").exists()


def test_quickstart_refuses_a_folder_that_holds_something_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    done = otahsm("quickstart", tmp_path, folder=tmp_path)
    assert done.returncode == 2
    assert "is not empty; nothing was changed" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_quickstart_without_softhsm_says_what_to_install_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    done = otahsm("quickstart", folder, folder=tmp_path, environment={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "softhsm2-util is not on the PATH" in done.stderr
    assert "apt install softhsm2" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


def test_health_exits_with_0_while_the_daemon_can_sign(line: Fleet) -> None:
    done = line.run("health")
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")


def test_health_exits_with_3_when_there_is_no_daemon_and_says_why(fleet: Fleet) -> None:
    address = f"localhost:{free_port()}"
    fleet.edit("target = ", f'target = "{address}"  # ')
    done = fleet.run("health")
    assert (done.returncode, done.stdout) == (3, "NOT_SERVING\n")
    assert done.stderr.startswith(f"otahsm: can't reach the daemon at {address}: ")
    assert "Traceback" not in done.stderr


def test_health_does_not_say_how_a_daemon_is_that_it_can_not_ask(fleet: Fleet) -> None:
    (fleet.folder / "tls/client.key").unlink()
    done = fleet.run("health")
    assert (done.returncode, done.stdout) == (2, "UNKNOWN\n")
    assert "can't read [client] key" in done.stderr
    assert json.loads(fleet.run("health", "--json").stdout)["serving"] is None


@pytest.mark.parametrize("command", ["serve", "device issue --count 1"])
def test_a_missing_configuration_is_explained(tmp_path: Path, command: str) -> None:
    done = otahsm(*command.split(), folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "can't read otahsm.toml: No such file or directory" in done.stderr
    assert "otahsm quickstart" in done.stderr


@pytest.fixture
def shown(devices_of: Callable[[str], dict[str, Device]]) -> Device:
    return devices_of("ec-p256")["ec-p256"]


def test_show_shows_a_certificate(shown: Device, tmp_path: Path) -> None:
    done = otahsm("show", shown.certificate, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    fields = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
    assert fields[0] == ["Certificate"]
    assert ["subject", f"CN={shown.device_id}"] in [[field[0], field[-1].strip()] for field in fields]
    assert "clientAuth, critical" in done.stdout


def test_show_shows_every_certificate_of_a_chain(shown: Device, tmp_path: Path) -> None:
    done = otahsm("show", shown.chain, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    leaf, root = json.loads(done.stdout)
    assert leaf["kind"] == root["kind"] == "Certificate"
    assert leaf["subject"] == f"CN={shown.device_id}"
    assert root["issuer"] == f"{leaf['issuer']} (itself)"
    serial = openssl("x509", "-in", shown.certificate, "-noout", "-serial").text
    assert serial.strip().lower() == f"serial={leaf['serial']}"


def test_show_shows_a_csr_in_pem_and_in_der(shown: Device, tmp_path: Path) -> None:
    der = tmp_path / "device.der"
    assert openssl("req", "-in", shown.csr, "-outform", "DER", "-out", der).good
    said = [otahsm("show", path, "--json", folder=tmp_path) for path in (shown.csr, der)]
    assert [done.returncode for done in said] == [0, 0]
    assert said[0].stdout == said[1].stdout
    (csr,) = json.loads(said[0].stdout)
    assert csr["kind"] == "Certificate signing request"
    assert csr["subject"] == f"CN={shown.device_id}"
    assert csr["possession"].startswith("proven")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\n"], ids=["empty", "cut off"])
def test_show_says_what_it_can_not_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.pem"
    path.write_bytes(content)
    done = otahsm("show", path, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"otahsm: {path} is neither a certificate nor a CSR\n" in done.stderr


def test_show_says_that_a_file_is_missing(tmp_path: Path) -> None:
    name = f"{uuid.uuid4()}.pem"
    done = otahsm("show", name, folder=tmp_path)
    assert done.returncode == 2
    assert f"can't read {name}: No such file or directory" in done.stderr
