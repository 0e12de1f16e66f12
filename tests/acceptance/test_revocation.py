"""`otahsm revoke` and `otahsm crl` as their users type them; OpenSSL and nginx judge what comes of it."""

from __future__ import annotations

import json
import ssl
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from support.harness import Fleet, RunningDaemon, free_port, running
from support.programs import ask, assert_refused, issue, nginx, openssl, trust

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
CRLS = {
    "one-list": 'url = "http://crl.example.com/fleet.crl"\n',
    "shards": 'url = "http://crl.example.com/fleet-{shard}.crl"\nshards = 2\n',
}


@dataclass(frozen=True)
class Line:
    """A fleet whose daemon runs, with a [crl]; and where its devices are."""

    fleet: Fleet
    daemon: RunningDaemon
    devices: Path

    def issue(self, *ids: str) -> None:
        issue(self.fleet, self.devices, ids)

    def new_devices(self, count: int) -> list[str]:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        self.issue(*ids)
        return ids

    def revoke(self, *arguments: str | Path, expect: int = 1) -> CompletedProcess[str]:
        return self.fleet.run("revoke", *map(str, arguments), "--expect", str(expect))

    def certificate(self, device: str) -> Path:
        return self.devices / device / "client.pem"

    def serial(self, device: str) -> str:
        said = openssl("x509", "-in", self.certificate(device), "-noout", "-serial").text
        return said.strip().removeprefix("serial=")

    def fetch(self, output: Path, *options: str) -> Path:
        done = self.fleet.run("crl", "fetch", "--output", str(output), *options)
        assert done.returncode == 0, done.stderr
        return output

    def is_accepted(self, device: str, crl: Path) -> bool:
        verdict = openssl(
            "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check",
            "-CAfile", self.fleet.root_pem, "-CRLfile", crl, self.certificate(device),
        )  # fmt: skip
        assert verdict.good or "certificate revoked" in verdict.text, verdict.text
        return verdict.good


@pytest.fixture(scope="module", params=CRLS)
def line(
    make_fleet: Callable[[], Fleet], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Line]:
    fleet = make_fleet()
    with fleet.toml.open("a") as toml:
        toml.write(f'[crl]\n{CRLS[request.param]}directory = "crl"\n')
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        yield Line(fleet, daemon, tmp_path_factory.mktemp("line") / "devices")
        assert daemon.stop() == 0


def test_a_revoked_device_is_refused_by_openssl_and_the_others_are_not(line: Line, tmp_path: Path) -> None:
    bad, good = line.new_devices(2)
    done = line.revoke("--device-id", bad, "--reason", "key_compromise")
    assert done.returncode == 0, done.stderr
    shown = f"  {line.serial(bad).lower()} {bad} (ota-connect, issued)"
    assert done.stderr.splitlines() == [
        f"This will revoke 1 certificate of {bad}, for the reason key_compromise, for good.",
        shown,
    ]
    assert f"{bad}: {line.serial(bad).lower()} is revoked since" in done.stdout
    assert done.stdout.endswith("(key_compromise)\n1 revoked, 0 failed\n")
    crl = line.fetch(tmp_path / "fleet.pem", "--pem")
    assert not line.is_accepted(bad, crl)
    assert line.is_accepted(good, crl)
    der = line.fetch(tmp_path / "fleet.crl")
    text = openssl(
        "crl", "-inform", "DER", "-in", der, "-noout", "-text", "-CAfile", line.fleet.root_pem
    ).text
    assert "verify OK" in text
    assert f"Serial Number: {line.serial(bad)}" in text
    assert line.serial(good) not in text


def test_revoking_again_is_no_harm_and_the_first_reason_stands(line: Line) -> None:
    (device,) = line.new_devices(1)
    assert line.revoke("--serial", line.serial(device), "--reason", "superseded").returncode == 0
    again = line.revoke("--device-id", device, "--reason", "key_compromise")
    assert again.returncode == 0
    assert f"{line.serial(device).lower()} was already revoked on" in again.stdout
    assert again.stdout.endswith(" UTC (superseded)\n0 revoked, 1 already revoked, 0 failed\n")


def test_a_file_of_devices_or_of_serial_numbers_is_revoked(line: Line, tmp_path: Path) -> None:
    by_id, by_serial, good = line.new_devices(3)
    plain, table = tmp_path / "ids.txt", tmp_path / "serials.csv"
    plain.write_text(f"{by_id}\n")
    table.write_text(f"serial,lost\n{line.serial(by_serial)},yesterday\n")
    for file in (plain, table):
        assert line.revoke("--file", file, "--reason", "cessation_of_operation").returncode == 0
    crl = line.fetch(tmp_path / "fleet.pem", "--pem")
    assert [line.is_accepted(device, crl) for device in (by_id, by_serial, good)] == [False, False, True]


def test_what_can_not_be_revoked_is_listed_and_costs_no_neighbour(line: Line, tmp_path: Path) -> None:
    (device,) = line.new_devices(1)
    file = tmp_path / "ids.txt"
    file.write_text(f"unheard-of\n{device}\nnot\x1b[31mprintable\n")
    done = line.revoke("--file", file, "--reason", "superseded", expect=3)
    assert done.returncode == 1
    assert done.stdout.endswith("1 revoked, 2 failed\n")
    assert (
        "failed: 'unheard-of': no certificate of the device 'unheard-of' was issued [NOT_FOUND]."
        in done.stderr
    )
    assert "\x1b" not in done.stderr
    done = line.revoke("--file", file, "--reason", "superseded", "--json", expect=3)
    reports: list[dict[str, Any]] = [json.loads(text) for text in done.stdout.splitlines()]
    assert [report["type"] for report in reports] == ["failed", "revoked", "failed", "summary"]
    assert (reports[0]["name"], reports[0]["code"], reports[0]["reason"]) == (
        "unheard-of",
        "NOT_FOUND",
        "NOT_FOUND",
    )
    assert reports[1]["serial"] == line.serial(device).lower()
    assert reports[1]["already_revoked"]
    assert reports[-1] == {"type": "summary", "revoked": 0, "already_revoked": 1, "held": 0, "failed": 2}


def test_a_certificate_is_revoked_under_the_profile_that_is_named(line: Line) -> None:
    (device,) = line.new_devices(1)
    done = line.revoke("--device-id", device, "--profile", "another", "--reason", "superseded")
    assert done.returncode == 1
    assert "under the profile 'another'" in done.stderr
    done = line.revoke("--device-id", device, "--profile", "ota-connect", "--reason", "superseded")
    assert done.returncode == 0


def test_nobody_revokes_by_a_slip(line: Line, tmp_path: Path) -> None:
    devices = line.new_devices(2)
    file = tmp_path / "ids.txt"
    file.write_text("\n".join([*devices, devices[0]]))
    for arguments, options in (
        (("--device-id", devices[0]), ()),
        (("--device-id", devices[0]), ("--expect", "2")),
        (("--device-id", devices[0]), ("--yes",)),
        (("--serial", line.serial(devices[0])), ("--expect", "0")),
        (("--file", str(file)), ()),
        (("--file", str(file)), ("--expect", "3")),
    ):
        done = line.fleet.run("revoke", *arguments, "--reason", "superseded", "--json", *options)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, options)
    assert "--expect says 3, but the number is 2" in done.stderr
    assert f"2 lines of {file} name (1 more name one of them again)" in done.stderr
    after = line.revoke("--file", file, "--reason", "superseded", expect=2)
    assert "2 revoked, 0 failed" in after.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reason", "superseded"], "give one of --serial, --device-id and --file"),
        (["--serial", "ff", "--device-id", "a", "--reason", "superseded"], "give one of"),
        (["--device-id", "a"], "--reason"),
        (["--device-id", "a", "--reason", "certificate_hold"], "certificate_hold"),
        (["--serial", "xyz", "--reason", "superseded"], "--serial takes a serial number"),
        (["--file", "missing.csv", "--reason", "superseded"], "can't read missing.csv"),
    ],
)
def test_wrong_use_is_said(line: Line, arguments: list[str], said: str) -> None:
    done = line.revoke(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_crl_is_shown_from_a_file_and_from_the_daemon(line: Line, tmp_path: Path) -> None:
    line.revoke("--device-id", *line.new_devices(1), "--reason", "superseded")
    file = line.fetch(tmp_path / "fleet.crl")
    from_file = line.fleet.run("crl", "show", str(file), "--json")
    from_daemon = line.fleet.run("crl", "show", "--from-daemon", "--json")
    assert from_file.stdout == from_daemon.stdout
    shown = json.loads(from_file.stdout)
    assert shown["issuer"] == "CN=otahsm quickstart fleet root"
    assert shown["scope"] == "complete"
    assert int(shown["revoked certificates"]) > 0
    text = line.fleet.run("crl", "show", str(file)).stdout
    assert f"number                   {shown['number']}\n" in text
    assert line.fleet.run("crl", "show").returncode == 2
    wrong = line.fleet.run("crl", "show", str(line.fleet.root_pem))
    assert wrong.returncode == 1
    assert f"{line.fleet.root_pem} is not a CRL" in wrong.stderr


def test_a_crl_that_is_not_there_is_said_and_no_file_is_written(line: Line, tmp_path: Path) -> None:
    for options in (["--url", "http://crl.example.com/none.crl"], ["--shard", "7"]):
        done = line.fleet.run("crl", "fetch", "--output", str(tmp_path / "none.crl"), *options)
        assert done.returncode == 1
        assert "there is no" in done.stderr
    assert not (tmp_path / "none.crl").exists()


def test_a_csr_of_a_revoked_device_is_refused_with_the_reason(line: Line, tmp_path: Path) -> None:
    (device,) = line.new_devices(1)
    line.revoke("--device-id", device, "--reason", "privilege_withdrawn")
    csr = line.devices / device / f"{device}.csr"
    done = line.fleet.run("csr", "sign", "--out", str(tmp_path / "out"), "--json", str(csr))
    assert done.returncode == 1
    report = json.loads(done.stdout.splitlines()[0])
    assert (report["code"], report["reason"]) == ("FAILED_PRECONDITION", "REVOKED")
    assert line.serial(device).lower() in report["message"]
    assert "(privilege_withdrawn)" in report["message"]


SERVER = """
    server {{
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate {fleet}/gateway/server.pem;
        ssl_certificate_key {fleet}/gateway/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate {fleet}/ca/fleet-root.pem;
        ssl_crl {fleet}/crl/complete.pem;
        ssl_verify_client on;
        location / {{ return 200 $ssl_client_s_dn; }}
    }}
"""


def test_nginx_refuses_a_revoked_device_and_still_accepts_the_others(line: Line, tmp_path: Path) -> None:
    good = line.new_devices(2)
    bad = line.new_devices(2)
    port = free_port()

    def connect(device: str, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = trust(line.fleet.folder / "gateway/server_ca.pem", version)
        context.load_cert_chain(line.certificate(device), line.devices / device / "pkey.pem")
        return context

    url = f"https://localhost:{port}"
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    with nginx(before, port, SERVER.format(fleet=line.fleet.folder)):
        for device in (*good, *bad):
            assert ask(url, connect(device, VERSIONS[1])) == (200, f"CN={device}")
    for device in bad:
        line.revoke("--device-id", device, "--reason", "key_compromise")
    number = number_of(line)
    line.daemon.wait_for("crl.written", number=number)
    with nginx(after, port, SERVER.format(fleet=line.fleet.folder)):
        for version in VERSIONS:
            for device in bad:
                assert_refused(url, connect(device, version))
            for device in good:
                assert ask(url, connect(device, version)) == (200, f"CN={device}")


def number_of(line: Line) -> int:
    """Return the number of the CRL that has all that is revoked by now."""
    return int(json.loads(line.fleet.run("crl", "show", "--from-daemon", "--json").stdout)["number"])


def test_the_files_that_are_served_are_those_that_the_daemon_hands_out(line: Line, tmp_path: Path) -> None:
    line.revoke("--device-id", *line.new_devices(1), "--reason", "superseded")
    line.daemon.wait_for("crl.written", number=number_of(line))
    folder = line.fleet.folder / "crl"
    assert line.fetch(tmp_path / "complete.crl").read_bytes() == (folder / "complete.crl").read_bytes()
    for url_path in folder.glob("fleet*.crl"):
        fetched = line.fetch(tmp_path / url_path.name, "--url", f"http://crl.example.com/{url_path.name}")
        assert fetched.read_bytes() == url_path.read_bytes()
    if (folder / "authorities.crl").exists():
        fetched = line.fetch(tmp_path / "authorities.crl", "--authorities")
        assert fetched.read_bytes() == (folder / "authorities.crl").read_bytes()
