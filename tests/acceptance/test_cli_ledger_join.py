"""`otahsm ledger join`, `accept`, `restore` and `init-key`: a machine without a memory believes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509

from support.harness import OTAHSM, Fleet, RunningDaemon, eventually, running

SIGNED = "state/login/signed"
CRL = """
[crl]
url = "http://crl.example.com/fleet.crl"
directory = "crl"

[ledger]
"""


@pytest.fixture
def fleet(fleet: Fleet) -> Fleet:
    """A fleet with a CRL."""
    fleet.edit("\n[ledger]\n", CRL)
    return fleet


def issue(daemon: RunningDaemon, *devices: str) -> None:
    daemon.configure_client()
    ids = daemon.fleet.folder / f"{devices[0]}.txt"
    ids.write_text("\n".join(devices))
    done = daemon.fleet.run("device", "issue", "--ids", str(ids))
    assert done.returncode == 0, done.stderr


def revoke(daemon: RunningDaemon, device: str) -> None:
    done = daemon.fleet.run("revoke", "--device-id", device, "--reason", "key_compromise", "--expect", "1")
    assert done.returncode == 0, done.stderr


def revoked(fleet: Fleet) -> int:
    """How many certificates the published CRL has."""
    try:
        return len(x509.load_der_x509_crl((fleet.folder / "crl/fleet.crl").read_bytes()))
    except FileNotFoundError:
        return -1


def checkpoint(fleet: Fleet, name: str) -> subprocess.CompletedProcess[str]:
    return fleet.run("ledger", "checkpoint", "--new", "--output", name, "--patience", "0")


def run(fleet: Fleet, *arguments: str, status: int = 0) -> str:
    """Run `otahsm ledger`; return all that it says."""
    done = fleet.run("ledger", *arguments)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def answer(fleet: Fleet, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `otahsm ledger` and type something."""
    return subprocess.run(
        [*OTAHSM, "ledger", *arguments],
        cwd=fleet.folder,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def doctor(fleet: Fleet) -> dict[str, str]:
    checks = json.loads(fleet.run("doctor", "--json").stdout)
    (check,) = (each for each in checks if each["subject"] == "signers' memory")
    return dict(check)


def fill(fleet: Fleet) -> None:
    """Have a daemon issue three certificates, revoke one, and sign a CRL and a checkpoint."""
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        issue(daemon, "a", "b", "c")
        revoke(daemon, "a")
        eventually(lambda: revoked(fleet) == 1, "no CRL is made")
        assert checkpoint(fleet, "kept.note").returncode == 0
        assert daemon.stop() == 0


def test_a_rebuilt_host_signs_certificates_and_neither_crls_nor_checkpoints_until_it_joins(
    fleet: Fleet,
) -> None:
    fill(fleet)
    assert doctor(fleet)["status"] == "ok"
    shutil.rmtree(fleet.folder / SIGNED)
    (fleet.folder / "kept.note").rename(fleet.folder / "elsewhere.note")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        issue(daemon, "d")  # certificates need no memory
        revoke(daemon, "b")
        done = checkpoint(fleet, "new.note")
        assert done.returncode == 4
        assert "don't know which checkpoint of the log" in done.stderr
        assert "`otahsm ledger join`" in done.stderr
        eventually(
            lambda: "don't know which CRLs" in fleet.run("health").stderr, "health doesn't say why CRLs fail"
        )
        assert revoked(fleet) == 1
        assert doctor(fleet)["status"] == "fail"
        assert "`otahsm ledger join`" in doctor(fleet)["fix"]
        # What is in use is not new.
        said = run(fleet, "init-key")
        assert "The ledger is in use" in said
        assert "`otahsm ledger join`" in said
        assert checkpoint(fleet, "new.note").returncode == 4
        options = ("--checkpoint", "elsewhere.note", "--expect", "3", "--json")
        told = json.loads(fleet.run("ledger", "join", *options).stdout)
        assert (told["again"], len(told["crl_numbers"]["ca"])) == (False, 1)
        eventually(lambda: revoked(fleet) == 2, "no CRL is made after joining")
        assert checkpoint(fleet, "new.note").returncode == 0
        assert doctor(fleet)["status"] == "ok"
        assert daemon.stop() == 0
    journal = next((fleet.folder / SIGNED / "journal").glob("*.log")).read_text()
    assert f" {told['log']} at {told['size']} leaves, root {told['root']}, 1 CRL\n" in journal
    said = run(fleet, "join", "--expect", "0")
    assert "which the ledger continues" in said


def test_an_older_copy_of_the_ledger_is_not_joined_with_a_checkpoint_from_elsewhere(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        issue(daemon, "a")
        assert checkpoint(fleet, "old.note").returncode == 0
        run(fleet, "backup", "--output", "copy.sqlite3")
        issue(daemon, "b", "c")
        revoke(daemon, "a")
        eventually(lambda: revoked(fleet) == 1, "no CRL is made")
        assert checkpoint(fleet, "kept.note").returncode == 0
        assert daemon.stop() == 0
    shutil.rmtree(fleet.folder / "ledger")
    run(fleet, "restore", "--from", "copy.sqlite3")
    # The signers of this machine know better, whatever is said.
    assert "does not continue the checkpoint" in run(fleet, "join", "--expect", "0", status=4)
    assert "does not continue it" in doctor(fleet)["message"]
    # A rebuilt one doesn't.
    shutil.rmtree(fleet.folder / SIGNED)
    said = run(fleet, "join", "--checkpoint", "kept.note", "--expect", "0", status=4)
    assert "does not continue the checkpoint" in said
    assert "was signed" in said
    assert "leaves, not 1000; nothing was changed" in run(fleet, "join", "--expect", "1000", status=4)
    for typed in ("y\n", "999\n"):
        done = answer(fleet, typed, "join")
        assert done.returncode == 2
        assert "nothing was changed" in done.stderr
        assert "can't be seen here" in done.stderr
    assert answer(fleet, "", "join").returncode == 1
    assert not (fleet.folder / SIGNED / "journal").exists()
    assert "don't know" in doctor(fleet)["message"]
    # The stated limit: an operator who says so has it signed.
    size = json.loads(fleet.run("ledger", "verify", "--json").stdout)["signed_size"]
    done = answer(fleet, f"{size}\n", "join", "--checkpoint", "old.note")
    assert done.returncode == 0, done.stderr
    assert "can't be seen here" not in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE crls SET number = 1 + number", "it is another CRL than its row says"),
        ("UPDATE crls SET der = x'3000'", "can't be trusted"),
        ("UPDATE crls SET url = 'authorities' WHERE url = ''", "can't be trusted"),
        ("UPDATE checkpoints SET note = x'00'", "newest checkpoint, of"),
        ("UPDATE checkpoints SET size = 1000 WHERE size = (SELECT max(size) FROM checkpoints)", "It is for"),
        ("UPDATE tree SET size = 1, peaks = substr(peaks, 1, 32)", "does not continue the checkpoint"),
        ("UPDATE tree SET peaks = zeroblob(length(peaks))", "does not continue the checkpoint"),
        ("UPDATE tree SET peaks = x'00'", "the state of the tree is corrupt"),
    ],
)
def test_a_ledger_that_was_changed_is_not_joined(
    filled: Fleet, tmp_path: Path, change: str, said: str
) -> None:
    fleet = filled.copy_to(tmp_path / "copy")
    shutil.rmtree(fleet.folder / SIGNED)
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        assert database.execute(change).rowcount > 0
    assert said in run(fleet, "join", "--expect", "0", status=4)
    assert not (fleet.folder / SIGNED).exists()


def test_a_ledger_that_lacks_a_crl_that_gateways_have_is_not_joined(filled: Fleet, tmp_path: Path) -> None:
    fleet = filled.copy_to(tmp_path / "copy")
    shutil.rmtree(fleet.folder / SIGNED)
    published = fleet.folder / "crl/fleet.crl"
    assert "1 CRL." in run(fleet, "join", "--expect", "0", "--crl", str(published))
    shutil.rmtree(fleet.folder / SIGNED)
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        database.execute("DELETE FROM crls")
    said = run(fleet, "join", "--expect", "0", "--crl", str(published), status=4)
    assert "was signed, and the ledger has none of its scope" in said
    assert not (fleet.folder / SIGNED).exists()
    other = fleet.root_pem
    said = run(fleet, "join", "--expect", "0", "--crl", str(other), status=2)
    assert f"{other} is not a CRL of a CA in the configuration" in said


@pytest.fixture(scope="module")
def filled(fleet_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet that has signed; to be copied."""
    fleet = Fleet(fleet_template).copy_to(tmp_path_factory.mktemp("filled") / "fleet")
    fleet.edit("\n[ledger]\n", CRL)
    fill(fleet)
    return fleet


def test_a_ledger_without_a_checkpoint_says_so_and_is_continued_from_there(
    filled: Fleet, tmp_path: Path
) -> None:
    fleet = filled.copy_to(tmp_path / "copy")
    shutil.rmtree(fleet.folder / SIGNED)
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        database.execute("DELETE FROM checkpoints")
        (size,) = database.execute("SELECT size FROM tree").fetchone()
    assert "never: the ledger has no checkpoint" in run(fleet, "join", "--expect", "0")
    assert f"has {size} leaves, and the ledger continues it" in doctor(fleet)["message"]
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        assert checkpoint(fleet, "new.note").returncode == 0


def test_without_a_ledger_or_as_another_user_nothing_is_joined(fleet: Fleet) -> None:
    shutil.rmtree(fleet.folder / "ledger")
    assert "there is no ledger" in run(fleet, "join", "--expect", "0", status=2)
    assert "there is no ledger" in run(fleet, "accept", "--reason", "why not", status=2)
    assert "the reason is empty" in run(fleet, "accept", "--reason", " ", status=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run it as somebody else")
def test_who_can_not_read_the_ledger_is_told_to_be_root_who_writes_as_the_signers_user(filled: Fleet) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are root's alone
        Path(name).chmod(0o755)
        fleet = filled.copy_to(Path(name) / "fleet")
        for path in (fleet.folder / "ledger", *(fleet.folder / "ledger").iterdir()):
            os.chown(path, 54321, 54321)
        (fleet.folder / "ledger").chmod(0o700)
        shutil.rmtree(fleet.folder / SIGNED)
        for path in (fleet.folder / "state", *(fleet.folder / "state").rglob("*")):
            os.chown(path, 12345, 12345)
        for user, status, said in ((12345, 3, "Run this as root"), (65534, 2, "as the signers' user")):
            done = subprocess.run(
                ["setpriv", f"--reuid={user}", "--clear-groups", *OTAHSM, "ledger", "join", "--expect", "0"],
                cwd=fleet.folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == status, done.stderr
            assert said in done.stderr
        assert not (fleet.folder / SIGNED).exists()
        run(fleet, "join", "--expect", "0")
        owners = {path.stat().st_uid for path in (fleet.folder / "state").rglob("*")}
        assert owners == {12345}
        assert {path.stat().st_uid for path in (fleet.folder / "ledger").iterdir()} == {54321}


def test_a_restored_backup_is_gone_on_from_with_a_reason(filled: Fleet, tmp_path: Path) -> None:
    fleet = filled.copy_to(tmp_path / "copy")
    run(fleet, "backup", "--output", "copy.sqlite3")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        issue(daemon, "d")
        revoke(daemon, "b")
        eventually(lambda: revoked(fleet) == 2, "no CRL is made")
        assert checkpoint(fleet, "new.note").returncode == 0
        assert daemon.stop() == 0
    shutil.rmtree(fleet.folder / "ledger")
    assert "the reason is empty" in run(fleet, "restore", "--from", "copy.sqlite3", "--reason", " ", status=2)
    assert not (fleet.folder / "ledger/ledger.sqlite3").exists()
    said = run(fleet, "restore", "--from", "copy.sqlite3")
    assert f'otahsm ledger accept --config {fleet.toml} --reason "..."' in said
    (fleet.folder / "ledger/ledger.sqlite3").unlink()
    said = run(fleet, "restore", "--from", "copy.sqlite3", "--reason", "the disk failed")
    assert "The signers of this machine go on from" in said
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        assert checkpoint(fleet, "again.note").returncode == 0
        revoke(daemon, "c")
        eventually(lambda: revoked(fleet) == 2, "no CRL is made")
    said = run(fleet, "verify", "--journal", f"{SIGNED}/journal")
    assert "accepted 2" in said
    assert "the disk failed" in said


def test_a_new_ledger_begins_with_init_key_and_needs_no_checkpoint_key(fleet: Fleet) -> None:
    shutil.rmtree(fleet.folder / SIGNED)
    (fleet.folder / "ledger.key").unlink()
    text = fleet.toml.read_text()
    fleet.toml.write_text(re.sub(r"(?ms)^\[checkpoint\].*?(?=^\[)", "", text))
    told = json.loads(fleet.run("ledger", "init-key", "--json").stdout)
    made = {part["name"]: part["made"] for part in told["parts"]}
    assert made == {"MAC key": True, "checkpoint key": None, "memory": True}
    assert (fleet.folder / "ledger.key").stat().st_mode & 0o777 == 0o600
    assert doctor(fleet)["status"] == "ok"
    fleet.toml.write_text(text)
    assert "the log" in doctor(fleet)["message"]
    said = run(fleet, "init-key")
    assert "begin with the log: nothing was signed" in said
    fill(fleet)
    assert "know what they signed last" in run(fleet, "init-key")
