"""The line's own command, killed: running it again finishes what was left, and makes nothing twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from harness import OTAHSM, RunningDaemon, eventually
from ledger_reader import certificates


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
    command = [*OTAHSM, "device", "issue", "--ids", "ids.txt"]
    for kill_at in (1, 150, 400):
        run = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: len(complete(devices)) >= kill_at, "no progress")  # noqa: B023
        run.kill()
        run.wait(30)
        assert len(complete(devices)) < len(ids)
        # What is there is whole, although nobody said goodbye.
        recorded = certificates(daemon.fleet)
        for device in complete(devices):
            check_folder(devices / device, recorded[device])
    finished = daemon.fleet.run("device", "issue", "--ids", "ids.txt")
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


def test_devices_that_a_killed_run_began_are_finished_by_the_next_count(daemon: RunningDaemon) -> None:
    daemon.configure_client()
    devices = daemon.fleet.folder / "devices"
    command = [*OTAHSM, "device", "issue", "--count", "1000"]
    run = subprocess.Popen(
        command, cwd=daemon.fleet.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: len(complete(devices)) >= 10, "no progress")
    run.kill()
    run.wait(30)
    begun = {path.parent.name for path in devices.glob("[!.]*/*.csr")}
    again = daemon.fleet.run("device", "issue", "--count", str(len(begun) or 1))
    assert again.returncode == 0, again.stderr
    assert begun <= complete(devices)
