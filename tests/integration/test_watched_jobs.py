"""Jobs of a real daemon: what fails is shown, and what goes on failing ends it to be started again."""

from __future__ import annotations

import json
import sys
from typing import Final

from support.harness import Fleet, running

# A daemon in which nobody foresaw that a file called "fault" keeps it from looking who is denied.
_WITH_A_FAULT: Final = """
import runpy, sys
from pathlib import Path
from otahsm.authority import jobs
from otahsm.authority.denied_clients import DeniedClients

look = DeniedClients.look

async def look_or_fail(self):
    if Path("fault").exists():
        raise ZeroDivisionError("nobody foresaw this")
    await look(self)

DeniedClients.look = look_or_fail
jobs._LONGEST_REST = float(sys.argv[1])
sys.argv = ["otahsm", "serve"]
runpy.run_module("otahsm", run_name="__main__")
"""


def _with_a_fault(longest_rest: float) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", _WITH_A_FAULT, str(longest_rest))


def test_a_job_that_fails_is_shown_while_the_daemon_serves_and_until_it_is_well(fleet: Fleet) -> None:
    with running(fleet, within=_with_a_fault(10)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        (fleet.folder / "fault").touch()
        (failed, *_) = daemon.wait_for("job.failed", job="denied clients")
        assert "nobody foresaw this" in failed["exception"]
        shown = fleet.run("health")
        (fleet.folder / "fault").unlink()
        assert (shown.returncode, shown.stdout) == (0, "SERVING\n")
        assert shown.stderr.startswith("denied clients has failed since 20")
        assert "nobody foresaw this" in shown.stderr
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
    with running(fleet, within=_with_a_fault(0.01)) as daemon:
        daemon.wait_for("health.changed", serving=True)
        (fleet.folder / "fault").touch()
        daemon.wait_for("job.failed", count=10, job="denied clients")
        daemon.wait_for("daemon.stopped")
        assert daemon.process.wait(60) == 3  # `RestartPreventExitStatus=2 4` in the unit
        assert any("DAEMON_FAILED" in line or "denied clients" in line for line in daemon.other_output)
