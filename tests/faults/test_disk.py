"""A disk that is really full, and one that can't be written: mounts that only the program sees."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from otahsm.errors import ExitCode

from support.devices import issue_all, new_requests
from support.harness import OTAHSM, READY_SECONDS, Fleet, running
from support.ledger_reader import rows, verified

SMALL_DISK = "mkdir -p ledger && mount -t tmpfs -o size=3m,mode=700 disk ledger"
FILLED = f"{SMALL_DISK} && head -c 2m /dev/zero > ledger/filler"
READ_ONLY = "mount --bind ledger ledger && mount -o remount,bind,ro ledger"


def after(mounting: str) -> Sequence[str]:
    """Return a command that mounts something, and then runs what follows it."""
    return ("unshare", "--map-root-user", "--mount", "sh", "-c", f'{mounting} && exec "$@"', "sh")


@pytest.fixture(autouse=True)
def _mounts_are_allowed() -> None:
    if subprocess.run([*after("true"), "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this system lets nobody mount anything, not even for itself")


async def test_a_full_disk_stops_issuing_and_room_starts_it_again(fleet: Fleet) -> None:
    with running(fleet, within=after(FILLED)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        disk = Path(f"/proc/{daemon.process.pid}/root{fleet.folder}/ledger")
        requests = new_requests(3000)
        async with daemon.client(patience=0) as client:
            issued, refused = await issue_all(client, requests)
            assert {refusal.reason for refusal in refused} == {"LEDGER_UNAVAILABLE"}
            (event, *_) = daemon.wait_for("ledger.unavailable")
            assert "database or disk is full" in str(event)
            daemon.wait_for("health.changed", serving=False)
            (disk / "filler").unlink()
            daemon.wait_for("health.changed", count=2, serving=True)
            before = {result.device_id: result.chain[0] for result in issued}
            wanted = [*requests[:200], *requests[-200:]]
            again, refused = await issue_all(client, wanted)
            assert not refused
        for result in again:
            assert before.get(result.device_id, result.chain[0]) == result.chain[0]
        assert daemon.stop() == 0


def test_a_ledger_that_can_not_be_written_is_named_and_can_be_read(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.configure_client()
        daemon.wait_for("health.changed", serving=True)
        assert fleet.run("device", "issue", "--count", "3").returncode == 0
        assert daemon.stop() == 0

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*after(READ_ONLY), *OTAHSM, *arguments]
        return subprocess.run(
            command, cwd=fleet.folder, capture_output=True, text=True, timeout=READY_SECONDS, check=False
        )

    refused = run("serve")
    assert refused.returncode == ExitCode.USAGE
    assert "ledger.sqlite3: Read-only file system" in refused.stderr
    assert "Everything matches." in run("ledger", "verify").stdout
    assert len(rows(fleet)) == 3
    assert verified(fleet).good


SMALL_LINE = "mkdir -p out && mount -t tmpfs -o size=1m,mode=700 disk out"
TWICE = """
"$@"; echo "first: $?"
mount -o remount,size=64m disk out
"$@"; echo "second: $?"
find out -name client.pem | wc -l
find out -name '.new-*' | wc -l
"""


def test_a_line_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.configure_client()
        daemon.wait_for("health.changed", serving=True)
        issue = (*OTAHSM, "device", "issue", "--count", "400", "--out", "out")
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{SMALL_LINE}\n{TWICE}", "sh", *issue],
            cwd=fleet.folder,
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
            check=False,
        )
        assert "first: 2" in done.stdout, done.stderr
        assert "No space left on device" in done.stderr or "disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout.split()[-4:] == ["second:", "0", "400", "0"]
    assert len([row for row in rows(fleet) if row.certificate is not None]) == 400


def test_a_devices_folder_that_can_not_be_written_is_named(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.configure_client()
        daemon.wait_for("health.changed", serving=True)
        read_only = "mkdir out && mount --bind out out && mount -o remount,bind,ro out"
        done = subprocess.run(
            [*after(read_only), *OTAHSM, "device", "issue", "--count", "1", "--out", "out"],
            cwd=fleet.folder,
            capture_output=True,
            text=True,
            timeout=READY_SECONDS,
            check=False,
        )
    assert done.returncode == ExitCode.USAGE
    assert "out/.lock: Read-only file system" in done.stderr
    assert not rows(fleet)


FULL = "mkdir -p disk && mount -t tmpfs -o size=64k,mode=700 disk disk"
WRITE = """
from pathlib import Path
from otahsm.system.durable import create_file, explained, replace_file
from otahsm.errors import FolderError
folder = Path("disk")
replace_file(folder / "crl", b"old")
for writer, name in ((replace_file, "crl"), (create_file, "backup")):
    try:
        with explained():
            writer(folder / name, bytes(1 << 20))
    except FolderError as error:
        print(error.message)
print((folder / "crl").read_bytes(), [path.name for path in folder.iterdir()])
"""


def test_a_file_that_has_no_room_leaves_the_old_one_and_no_other(tmp_path: Path) -> None:
    command = [*after(FULL), sys.executable, "-c", WRITE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "can't write disk/crl: No space left on device",
        "can't write disk/backup: No space left on device",
        "b'old' ['crl']",
    ], done.stderr


def test_a_file_on_a_disk_that_can_only_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/crl").write_bytes(b"old")
    read_only = "mount --bind disk disk && mount -o remount,bind,ro disk"
    code = WRITE.replace('replace_file(folder / "crl", b"old")', "")
    command = [*after(read_only), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        "can't write disk/crl: Read-only file system",
        "can't write disk/backup: Read-only file system",
        "b'old' ['crl']",
    ], done.stderr
