"""The line's own command, killed: running it again finishes what was left, and makes nothing twice."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from otahsm.line import make_device_key
from otahsm.line.run_state import RUN_STATE

from support.harness import READY_SECONDS, RunningDaemon, eventually
from support.ledger_reader import certificates
from support.zygote import start_command


def complete(devices: Path) -> set[str]:
    return {path.parent.name for path in devices.glob("[!.]*/client.pem")}


def test_device_issue_killed_and_run_again_leaves_every_device_complete_and_none_twice(
    daemon: RunningDaemon,
) -> None:
    daemon.configure_client()
    folder = daemon.fleet.folder
    devices = folder / "devices"
    ids = {f"device-{number:04}" for number in range(800)}
    (folder / "ids.txt").write_text("\n".join(sorted(ids)))
    command = ("device", "issue", "--ids", "ids.txt")
    for kill_at in (1, 150, 400):
        run = start_command(command, folder)
        eventually(lambda: len(complete(devices)) >= kill_at, "no progress")  # noqa: B023
        run.kill()
        run.wait(READY_SECONDS)
        assert len(complete(devices)) < len(ids)
        # What is there is whole, although nobody said goodbye.
        recorded = certificates(daemon.fleet)
        for device in complete(devices):
            check_folder(devices / device, recorded[device])
    finished = daemon.fleet.run(*command)
    assert finished.returncode == 0, finished.stderr
    assert complete(devices) == ids == {path.name for path in devices.iterdir() if path.is_dir()}
    recorded = certificates(daemon.fleet)
    assert recorded.keys() == ids
    for device in ids:
        check_folder(devices / device, recorded[device])


def check_folder(folder: Path, recorded: bytes) -> None:
    certificate = x509.load_pem_x509_certificate((folder / "client.pem").read_bytes())
    key = load_pem_private_key((folder / "pkey.pem").read_bytes(), None)
    assert certificate.public_key() == key.public_key()
    assert certificate.public_bytes(Encoding.DER) == recorded
    assert {path.name for path in folder.iterdir()} >= {"root.crt", "ca.pem", f"{folder.name}.chain.pem"}


def unfinished_order(devices: Path) -> bool:
    if not (devices / RUN_STATE).exists():
        return False
    with contextlib.closing(sqlite3.connect(devices / RUN_STATE, timeout=30)) as book:
        (there,) = book.execute("SELECT count(*) FROM sqlite_master WHERE name = 'orders'").fetchone()
        return bool(there and book.execute("SELECT 1 FROM orders WHERE ended_at IS NULL").fetchone())


@pytest.mark.parametrize("seed", range(2))
def test_a_count_that_is_killed_at_random_moments_makes_so_many_devices_and_no_more(
    daemon: RunningDaemon, seed: int
) -> None:
    moments = random.Random(seed)  # noqa: S311 - to be repeated, not secret
    daemon.configure_client()
    folder = daemon.fleet.folder
    devices = folder / "devices"
    command = ("device", "issue", "--count", "400")
    for begun in sorted(moments.randrange(330) for _ in range(26)):
        run = start_command(command, folder)
        eventually(
            lambda: unfinished_order(devices) and len(list(devices.glob("[!.]*"))) >= begun,  # noqa: B023
            "no progress",
        )
        time.sleep(moments.uniform(0, 0.05))  # anywhere in a batch
        run.kill()
        run.wait(READY_SECONDS)
        assert unfinished_order(devices)
        recorded = certificates(daemon.fleet)
        for device in complete(devices):
            check_folder(devices / device, recorded[device])
    finished = daemon.fleet.run(*command)
    assert finished.returncode == 0, finished.stderr
    assert len(complete(devices)) == 400
    assert complete(devices) == {path.name for path in devices.iterdir() if path.is_dir()}
    recorded = certificates(daemon.fleet)
    assert recorded.keys() == complete(devices)
    for device in complete(devices):
        check_folder(devices / device, recorded[device])
    # That order has ended: the same words are a new one.
    assert not unfinished_order(devices)


def test_csr_sign_killed_and_run_again_asks_only_for_what_has_no_answer(daemon: RunningDaemon) -> None:
    daemon.configure_client()
    folder = daemon.fleet.folder
    devices = folder / "devices"
    (folder / "in").mkdir()
    ids = {f"meter-{number:03}" for number in range(600)}
    for device in ids:
        (folder / "in" / f"{device}.der").write_bytes(make_device_key(device, "ec-p256").csr)
    (folder / "in" / "broken.der").write_bytes(b"no CSR")
    run = start_command(("csr", "sign", "in"), folder)
    eventually(lambda: len(complete(devices)) >= 100, "no progress")
    run.kill()
    run.wait(READY_SECONDS)
    before = complete(devices)
    assert len(before) < 600
    assert {path.stem for path in (folder / "in").iterdir()} > before
    done = daemon.fleet.run("csr", "sign", "in", "--json")
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    skipped = {report["device_id"] for report in reports if report["type"] == "complete"}
    asked = {report["device_id"] for report in reports if report["type"] == "issued"}
    # At most the batch in hand was complete without being written down.
    assert skipped <= before
    assert len(before - skipped) <= 64
    assert asked == ids - skipped
    assert [report["name"] for report in reports if report["type"] == "failed"] == ["in/broken.der"]
    recorded = certificates(daemon.fleet)
    assert recorded.keys() == ids == complete(devices)
    for device in ids:
        certificate = x509.load_pem_x509_certificate((devices / device / "client.pem").read_bytes())
        assert certificate.public_bytes(Encoding.DER) == recorded[device]
