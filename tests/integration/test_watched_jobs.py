"""Jobs of a real daemon: what fails is shown, and what goes on failing ends it to be started again."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from typing import Final

from support.harness import Fleet, running

# A daemon in which nobody foresaw what a file called "fault" does to a method, or one called "hang".
_WITH_A_FAULT: Final = """
import asyncio, importlib, runpy, sys, time
from pathlib import Path
from otahsm.authority import jobs

module, owner, method, longest_rest = sys.argv[1:5]
owner = getattr(importlib.import_module(module), owner)
work = getattr(owner, method)

def hang():
    while Path("hang").exists():
        time.sleep(0.01)

async def work_or_fail(self, *rest):
    if Path("fault").exists():
        raise ZeroDivisionError("nobody foresaw this")
    await asyncio.to_thread(hang)
    return await work(self, *rest)

setattr(owner, method, work_or_fail)
jobs._LONGEST_REST, jobs.LONG_PASS = float(longest_rest), 1.0
sys.argv = ["otahsm", "serve"]
runpy.run_module("otahsm", run_name="__main__")
"""
_LOOK: Final = ("otahsm.authority.denied_clients", "DeniedClients", "look")
_SPOOL: Final = ("otahsm.authority.spool_reader", "SpoolReader", "run_once")
_KEEP: Final = ("otahsm.workers.pool", "WorkerPool", "_keep")


def _with_a_fault(where: tuple[str, str, str], longest_rest: float = 10) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", _WITH_A_FAULT, *where, str(longest_rest))


def test_a_job_that_fails_is_shown_while_the_daemon_serves_and_until_it_is_well(fleet: Fleet) -> None:
    with running(fleet, within=_with_a_fault(_LOOK)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        (fleet.folder / "fault").touch()
        (failed, *_) = daemon.wait_for("job.failed", job="denied clients")
        assert "nobody foresaw this" in failed["exception"]
        shown, as_json = fleet.run("health"), fleet.run("health", "--json")
        (fleet.folder / "fault").unlink()
        assert (shown.returncode, shown.stdout) == (0, "SERVING\n")
        assert shown.stderr.startswith("denied clients has failed since 20")
        assert "nobody foresaw this" in shown.stderr
        jobs = {job["name"]: job for job in json.loads(as_json.stdout)["jobs"]}
        assert datetime.fromisoformat(jobs["denied clients"]["failing_since"]).tzinfo == UTC
        daemon.wait_for("job.recovered", job="denied clients")
        shown = fleet.run("health", "--json")
        assert shown.stderr == ""
        jobs = {job.pop("name"): job for job in json.loads(shown.stdout)["jobs"]}
        assert jobs["denied clients"].pop("fault_count") >= 1
        assert all(not job["failing_reason"] and job["failing_since"] is None for job in jobs.values())
        assert jobs.keys() >= {"ledger", "transparency", "audit", "spool", "crl", "health", "reloading"}
        assert daemon.stop() == 0


def test_a_job_that_fails_again_and_again_ends_the_daemon_with_a_code_that_has_it_started_again(
    fleet: Fleet,
) -> None:
    with running(fleet, within=_with_a_fault(_LOOK, 0.01)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        (fleet.folder / "fault").touch()
        daemon.wait_for("job.failed", count=10, job="denied clients")
        daemon.wait_for("daemon.stopped")
        assert daemon.process.wait(60) == 3  # `RestartPreventExitStatus=2 4` in the unit
        daemon.reader.join(60)
        assert any("DAEMON_FAILED" in line or "denied clients" in line for line in daemon.other_output)


def test_a_worker_that_nobody_would_replace_any_more_ends_the_daemon_to_be_started_again(
    fleet: Fleet,
) -> None:
    with running(fleet, within=_with_a_fault(_KEEP)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        (fleet.folder / "fault").touch()
        os.kill(daemon.preparers()[0], signal.SIGKILL)
        daemon.wait_for("daemon.stopped")
        assert daemon.process.wait(60) == 3
        daemon.reader.join(60)  # its last lines
        # That of a signer may come to the fault first: which keeper it is, is chance.
        ended = ("the keeper of a preparer ended", "the keeper of a signer ended")
        assert any(words in line for line in daemon.other_output for words in ended)


def test_a_job_that_hangs_is_shown_and_keeps_the_daemon_neither_from_serving_nor_from_its_end(
    fleet: Fleet,
) -> None:
    with running(fleet, within=_with_a_fault(_SPOOL)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        (fleet.folder / "hang").touch()
        daemon.wait_for("job.stuck", job="spool")
        shown = fleet.run("health")
        assert (shown.returncode, shown.stdout) == (0, "SERVING\n")
        assert "a pass has been running since 20" in shown.stderr
        (fleet.folder / "hang").unlink()
        daemon.wait_for("job.recovered", job="spool")
        assert fleet.run("health").stderr == ""
        (fleet.folder / "hang").touch()
        daemon.wait_for("job.stuck", count=2, job="spool")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for("daemon.stopped")  # and all is closed; only the thread is waited for
        (fleet.folder / "hang").unlink()
        assert daemon.process.wait(60) == 0
