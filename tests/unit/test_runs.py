"""Runs: what they remember outlives the process, however it ended."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from otahsm.client import CertificateRequest, IssuedCertificate, Refusal
from otahsm.errors import (
    ConflictError,
    FolderError,
    OtahsmError,
    RequestRefusedError,
    TokenUnavailableError,
)
from otahsm.line import Device, DeviceFolders, Run, random_devices, unfinished_runs
from otahsm.line.run import name_of
from otahsm.line.run_state import RUN_STATE
from otahsm.pki.serial import SerialNumber

ASKED = ["device issue", "--count", "3"]
WHEN = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[DeviceFolders]:
    opened = DeviceFolders(tmp_path, b"")
    yield opened
    opened.close()


def open_run(folders: DeviceFolders, *, resume: bool = True) -> Run:
    return Run.open(folders, ASKED, random_devices(3), drawn=True, resume=resume)


def ids(run: Run) -> list[str]:
    return [device.device_id for device in run.devices()]


def issued(device_id: str, request: CertificateRequest | None = None) -> IssuedCertificate:
    request = request or CertificateRequest(b"csr", device_id)
    return IssuedCertificate(request, device_id, SerialNumber(0x17), (b"der",), WHEN, WHEN, replayed=False)


def refused(device_id: str, error: OtahsmError | None = None) -> Refusal:
    conflict = ConflictError("it is taken", hint="take another")
    return Refusal(CertificateRequest(b"csr", device_id), error or conflict)


def test_the_same_words_get_the_same_ids_until_the_order_has_ended(folders: DeviceFolders) -> None:
    first = open_run(folders)
    again = open_run(folders)
    assert again.number == first.number
    assert len(set(ids(first))) == first.count == 3
    assert ids(again) == ids(first)
    again.end()
    assert set(ids(open_run(folders))).isdisjoint(ids(first))


def test_other_words_are_another_run(folders: DeviceFolders) -> None:
    one = open_run(folders)
    other = Run.open(folders, [*ASKED, "--profile", "gold"], random_devices(3), drawn=True)
    assert set(ids(one)).isdisjoint(ids(other))
    assert ids(open_run(folders)) == ids(one)
    assert list(unfinished_runs(folders)) == [ASKED, [*ASKED, "--profile", "gold"]]


def test_a_new_order_can_be_wanted(folders: DeviceFolders) -> None:
    first = open_run(folders)
    second = open_run(folders, resume=False)
    assert set(ids(first)).isdisjoint(ids(second))
    assert ids(open_run(folders)) == ids(second)


def test_devices_come_back_in_order_with_what_is_known_of_them(folders: DeviceFolders) -> None:
    devices = [Device(f"d{number}", {"plant": "Ulm", "n": str(number)}) for number in range(3000)]
    Run.open(folders, ASKED, devices)
    assert list(Run.open(folders, ASKED).devices()) == devices


def test_outcomes_are_remembered(folders: DeviceFolders) -> None:
    run = Run.open(folders, ASKED)
    passing, fault = TokenUnavailableError("it is away"), OtahsmError("nobody foresaw it")
    run.record([issued("a"), refused("b"), refused("c", passing), refused("d", fault)])
    outcomes = Run.open(folders, ASKED).outcomes(["a", "b", "c", "d"])
    assert outcomes.keys() == {"a", "b"}  # the others were not about the device
    assert outcomes["a"] == "a"
    refusal = outcomes["b"]
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, ConflictError)
    assert (refusal.message, refusal.hint) == ("it is taken", "take another")


def test_a_refusal_is_forgotten_on_request_and_when_it_was_granted_after_all(folders: DeviceFolders) -> None:
    Run.open(folders, ASKED).record([refused("a"), refused("b")])
    run = Run.open(folders, ASKED, retry_refused=True)
    assert not run.outcomes(["a", "b"])
    run.record([issued("a"), refused("b")])
    outcomes = Run.open(folders, ASKED).outcomes(["a", "b"])
    assert outcomes["a"] == "a"
    assert isinstance(outcomes["b"], Refusal)


def test_a_device_with_its_own_csr_is_found_by_the_csr(folders: DeviceFolders) -> None:
    request, bad = CertificateRequest(b"its own"), CertificateRequest(b"bad")
    run = Run.open(folders, ASKED)
    run.record([issued("a", request), Refusal(bad, RequestRefusedError("csr", "it is empty"))])
    outcomes = Run.open(folders, ASKED).outcomes([name_of(request), name_of(bad), "another"])
    assert outcomes[name_of(request)] == "a"
    assert isinstance(outcomes[name_of(bad)], Refusal)


def test_what_was_complete_already_is_remembered(folders: DeviceFolders) -> None:
    Run.open(folders, ASKED, [Device("a")]).record_complete(["a"])
    assert Run.open(folders, ASKED).outcomes(["a"]) == {"a": "a"}


def test_an_order_is_begun_whole_or_not_at_all(folders: DeviceFolders) -> None:
    def breaks() -> Iterator[Device]:
        yield Device("a")
        raise FolderError("it ends here")

    with pytest.raises(FolderError):
        Run.open(folders, ASKED, breaks())
    Run.open(folders, ASKED, [Device("b")])
    assert ids(Run.open(folders, ASKED)) == ["b"]


def test_what_was_recorded_is_there_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from test_runs import *;"
        "run = Run.open(DeviceFolders(Path(sys.argv[1]), b''), ASKED, random_devices(3), drawn=True);"
        "run.record([issued('a')]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=Path(__file__).parent, check=False)
    assert killed.returncode == -9
    folders = DeviceFolders(tmp_path, b"")
    run = open_run(folders)
    assert run.number == 1
    assert run.outcomes(["a"]) == {"a": "a"}
    folders.close()


def test_a_book_that_is_closed_is_one_file(tmp_path: Path) -> None:
    folders = DeviceFolders(tmp_path, b"")
    open_run(folders)
    folders.close()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", RUN_STATE}


@pytest.mark.parametrize("damage", [b"not a database at all", b"SQLite format 3\0" + bytes(4096)])
def test_a_damaged_book_is_named_and_a_new_one_can_be_begun(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / RUN_STATE).write_bytes(damage * 100)
    folders = DeviceFolders(tmp_path, b"")
    with pytest.raises(FolderError, match="damaged") as raised:
        open_run(folders)
    assert str(tmp_path / RUN_STATE) in raised.value.message
    assert "Move it away" in raised.value.hint
    shutil.move(tmp_path / RUN_STATE, tmp_path / "old")
    assert not open_run(folders).outcomes(["a"])
    folders.close()


def test_a_book_is_not_kept_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / RUN_STATE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match="can't use"):
        _ = DeviceFolders(tmp_path / "devices", b"").book
    assert not (tmp_path / "elsewhere").exists()


def test_another_versions_book_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / RUN_STATE) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    content = (tmp_path / RUN_STATE).read_bytes()
    folders = DeviceFolders(tmp_path, b"")
    with pytest.raises(FolderError, match="version 99") as raised:
        open_run(folders)
    assert "the otahsm that created it" in raised.value.hint
    folders.close()
    assert (tmp_path / RUN_STATE).read_bytes()[100:] == content[100:]


def test_a_full_disk_is_said_and_what_was_written_before_is_kept(folders: DeviceFolders) -> None:
    run = open_run(folders)
    run.record([issued("a")])
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        with pytest.raises(FolderError, match="can't use"):
            run.record([issued("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    again = open_run(folders)
    assert ids(again) == ids(run)
    assert again.outcomes(["a", "b"]) == {"a": "a"}
