"""`otahsm ledger verify --journal`, `ledger accept` and `doctor`: what signers have written down."""

from __future__ import annotations

import json
import os
import shutil
import signal

from otahsm.system.clock import rfc3339, utc_now

from support.harness import Fleet, RunningDaemon, running

JOURNAL = "state/login/signed/journal"


def verified(fleet: Fleet, *more: str) -> tuple[int, dict[str, object]]:
    done = fleet.run("ledger", "verify", "--journal", JOURNAL, "--json", *more)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def issue(daemon: RunningDaemon, count: int) -> None:
    daemon.configure_client()
    done = daemon.fleet.run("device", "issue", "--count", str(count))
    assert done.returncode == 0, done.stderr


def test_what_was_signed_is_what_is_in_the_ledger_also_after_a_signer_was_killed(
    daemon: RunningDaemon,
) -> None:
    issue(daemon, 20)
    os.kill(daemon.signers()[0], signal.SIGKILL)
    daemon.wait_for("signer.ready", count=2)
    daemon.fleet.run("crl", "get", "--output", "fleet.crl")
    daemon.fleet.run("ledger", "checkpoint", "--new", "--output", "new.note")
    status, told = verified(daemon.fleet, "--checkpoint", "new.note")
    assert (status, told["good"]) == (0, True)
    journals = told["journals"]
    assert isinstance(journals, dict)
    assert (journals["machines"], journals["certificates"], journals["refused"]) == (1, 20, 0)
    assert journals["checkpoints"] >= 1
    assert daemon.stop() == 0
    with running(daemon.fleet) as again:
        again.wait_for("health.changed", serving=True)
        issue(again, 5)
        status, told = verified(again.fleet)
    assert (status, told["findings"]) == (0, 0)
    # A journal that lacks what the ledger has, and one of another fleet.
    log = daemon.fleet.folder / JOURNAL / "00000001.log"
    lines = log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("certificate ")]
    log.write_text("".join(kept))
    status, told = verified(daemon.fleet)
    assert (status, told["findings"]) == (1, 25)
    log.write_text("".join([*lines, lines[-1].replace(lines[-1].split()[1], "f" * 40)]))
    assert verified(daemon.fleet)[0] == 1


def test_a_folder_without_a_journal_is_said(fleet: Fleet) -> None:
    done = fleet.run("ledger", "verify", "--journal", "nowhere")
    assert done.returncode == 2
    assert "can't read the journal nowhere" in done.stderr


def test_signers_notice_a_ledger_that_was_rolled_back_until_an_operator_accepts_it(
    daemon: RunningDaemon,
) -> None:
    fleet = daemon.fleet
    issue(daemon, 3)
    assert fleet.run("ledger", "backup", "--output", "copy.sqlite3").returncode == 0
    issue(daemon, 30)
    assert fleet.run("ledger", "checkpoint", "--new", "--output", "new.note").returncode == 0
    assert daemon.stop() == 0
    shutil.rmtree(fleet.folder / "ledger")
    assert fleet.run("ledger", "restore", "--from", "copy.sqlite3").returncode == 0
    with running(fleet) as again:
        again.wait_for("transparency.failed", reason="LEDGER_TAMPERED")
        again.configure_client()
        done = fleet.run("ledger", "checkpoint", "--new", "--output", "old.note", "--patience", "0")
        assert done.returncode == 4, done.stderr
        assert "does not continue the last one" in done.stderr
        assert "ledger accept" in done.stderr
        again.wait_for("signing.refused", reason="SIGNING_NOT_CONTINUED")
        done = fleet.run("doctor")
        assert "signers refused" in done.stdout
        status, told = verified(fleet)
        assert status == 1
        first = told["first"]
        assert isinstance(first, list)
        named = [finding["where"].split()[0] for finding in first]
        assert named.count("certificate") == 30  # those that were lost
        assert set(named) == {"certificate", "checkpoint"}
        done = fleet.run("ledger", "accept", "--reason", "restored the backup")
        assert done.returncode == 0, done.stderr
        assert "go on from quickstart.example/" in done.stdout
        assert "They knew 0 CRLs and 1 checkpoint before" in done.stdout
        status, told = verified(fleet)
        journals = told["journals"]
        assert isinstance(journals, dict)
        assert (status, told["findings"], journals["lost"] >= 31) == (0, 0, True)
        done = fleet.run("ledger", "checkpoint", "--new", "--output", "old.note")
        assert done.returncode == 0, done.stderr
        again.wait_for("job.recovered", job="transparency")  # and issuing goes on
        issue(again, 1)
        said = fleet.run("ledger", "verify", "--journal", JOURNAL).stdout
        assert "accepted" in said
        assert "joined" in said


def test_a_doctor_looks_for_refusals(daemon: RunningDaemon) -> None:
    def said() -> dict[str, str]:
        checks = json.loads(daemon.fleet.run("doctor", "--json").stdout)
        (check,) = (each for each in checks if each["subject"] == "signers' journal")
        return {name: check[name] for name in ("status", "message")}

    issue(daemon, 2)
    assert said()["status"] == "ok"
    assert said()["message"].startswith("no refusals in 30 days")
    log = daemon.fleet.folder / JOURNAL / "00000001.log"
    with log.open("a") as file:
        file.write("refused 2020-01-01T00:00:00Z a request: it is malformed\n")
    assert said()["status"] == "ok"
    with log.open("a") as file:
        file.write(f"refused {rfc3339(utc_now())} a request: it is malformed\n")
    assert said()["status"] == "warning"
    assert said()["message"].startswith("signers refused 1 request; the last: 20")
    shutil.rmtree(daemon.fleet.folder / "state/login/signed")
    assert said()["status"] == "ok"
    assert "no signer has signed anything" in said()["message"]
