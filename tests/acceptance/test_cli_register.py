"""`otahsm device register` as the line types it: who is told of what, and what a person sees of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from otahsm.pki.serial import SerialNumber

from support.backend import Reply, Seen, backend_running
from support.harness import Fleet

IDS = "device_id,plant\ncam-1,Ulm\ncam-2,Kiel\ncam-3,Ulm\n"


def with_backend(line: Fleet, folder: Path, url: str) -> Path:
    """Write the fleet's configuration with a backend of this test's own."""
    path = line.folder / f"{folder.name}.toml"
    path.write_text(
        f"{line.toml.read_text()}\n[registration]\nkind = 'webhook'\nurl = '{url}'\n"
        "[registration.body]\ndevice_id = '{device_id}'\ncredentials = '{certificate}'\nplant = '{plant}'\n"
    )
    return path


@pytest.fixture
def issued(line: Fleet, tmp_path: Path) -> Path:
    """A devices folder with three devices."""
    (tmp_path / "ids.csv").write_text(IDS)
    devices = tmp_path / "devices"
    done = line.run("device", "issue", "--ids", str(tmp_path / "ids.csv"), "--out", str(devices))
    assert done.returncode == 0, done.stderr
    return devices


def test_what_was_issued_is_registered_with_its_certificate_and_what_is_known_of_it(
    line: Fleet, issued: Path, tmp_path: Path
) -> None:
    refused = {"cam-2"}

    def judge(seen: Seen, _number: int) -> Reply:
        return Reply(422, b"unknown\x1b[2J plant") if seen.json["device_id"] in refused else Reply()

    with backend_running(judge) as backend:
        config = with_backend(line, tmp_path, backend.url)

        def register(*options: str) -> subprocess.CompletedProcess[str]:
            return line.run("device", "register", "--config", str(config), "--devices", str(issued), *options)

        first = register()
        assert first.returncode == 1
        assert first.stderr == "failed: 'cam-2': 422 Unprocessable Entity: unknown [2J plant\n"
        assert re.fullmatch(r"2 registered in .* s, 1 failed, 0 waiting; --status shows each\n", first.stdout)
        told = {seen.json["device_id"]: seen.json for seen in backend.seen}
        assert {name: body["plant"] for name, body in told.items()} == dict(
            row.split(",") for row in IDS.splitlines()[1:]
        )
        for name, body in told.items():
            assert body["credentials"] == (issued / name / "client.pem").read_text()

        status = register("--status", "--json")
        assert status.returncode == 0
        lines = [json.loads(text) for text in status.stdout.splitlines()]
        assert {(one["device_id"], one["type"]) for one in lines} == {
            ("cam-1", "done"),
            ("cam-2", "failed"),
            ("cam-3", "done"),
        }
        for one in lines:
            certificate = x509.load_pem_x509_certificate(
                (issued / one["device_id"] / "client.pem").read_bytes()
            )
            assert one["serial"] == SerialNumber(certificate.serial_number).hex()
            assert (one["attempts"], one["due_at"]) == (1, None)

        refused.clear()
        again = register("--retry-failed", "--json")
        assert again.returncode == 0
        done, summary = map(json.loads, again.stdout.splitlines())
        assert (done["type"], done["device_id"], done["attempts"]) == ("done", "cam-2", 2)
        assert (summary["registered"], summary["failed"], summary["waiting"]) == (1, 0, 0)
        assert len(backend.seen) == 4

    quiet = register("--quiet")  # nobody needs to be asked
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    shown = register("--status")
    assert shown.stdout.endswith("3 done, 0 failed, 0 waiting\n")
    assert re.search(
        r"^done +cam-2 +[0-9a-f]+ +2 attempts +[0-9 :-]+ UTC 201 Created: \{\}$", shown.stdout, re.MULTILINE
    )


def test_with_a_backend_configured_what_is_issued_waits_for_it_even_if_its_folder_is_moved_away(
    line: Fleet, tmp_path: Path
) -> None:
    config = ("--config", str(with_backend(line, tmp_path, "http://127.0.0.1:9")))
    devices = tmp_path / "devices"
    issuing = line.run(
        "device", "issue", *config, "--count", "2", "--set", "plant=Ulm", "--out", str(devices)
    )
    assert issuing.returncode == 0, issuing.stderr
    for folder in devices.glob("[!.]*"):
        shutil.rmtree(folder)
    tried = line.run("device", "register", *config, "--devices", str(devices), "--patience", "0", "--json")
    assert tried.returncode == 3
    assert "can't reach http://127.0.0.1:9" in tried.stderr
    *_, summary = map(json.loads, tried.stdout.splitlines())
    assert (summary["registered"], summary["waiting"], summary["missing"]) == (0, 2, 0)


def test_what_is_missing_is_named(line: Fleet, tmp_path: Path) -> None:
    without = line.run("device", "register", "--devices", str(tmp_path))
    assert without.returncode == 2
    assert "has no [registration] section" in without.stderr
    config = with_backend(line, tmp_path, "http://127.0.0.1:9")
    nowhere = line.run(
        "device", "register", "--config", str(config), "--devices", str(tmp_path / "devices"), "--json"
    )
    assert nowhere.returncode == 2
    assert "devices is not a folder" in nowhere.stderr
