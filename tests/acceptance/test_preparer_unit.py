"""Preparers of users of their own, as the units of deploy/ start them. Its tests share a machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support import workers
from support.harness import Fleet
from support.machine import Machine, booted

PROGRAM: Final = "/usr/local/lib/hostile_preparer.py"
DROP_IN: Final = "/etc/systemd/system/otahsm-preparer@.service.d/hostile.conf"
NOT_THERE: Final = "No such file or directory"
FORBIDDEN: Final = "Operation not permitted"
READ_ONLY: Final = "Read-only file system"
OUTCOMES: Final = {
    "read the configuration": NOT_THERE,
    "read users": NOT_THERE,
    "see the ledger": NOT_THERE,
    "see sockets": NOT_THERE,
    "see a home folder": "Permission denied",
    "see the daemon": NOT_THERE,
    "write beside programs": READ_ONLY,
    "write to /tmp": "Permission denied",
    "write to shared memory": "Permission denied",
    "make a socket": FORBIDDEN,
    "make a socket of the network": FORBIDDEN,
    "kill the daemon": FORBIDDEN,
    "trace the daemon": FORBIDDEN,
    "make a namespace": FORBIDDEN,
    "become root": FORBIDDEN,
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine whose daemon, which is not started yet, gets its preparers at a socket."""
    with booted() as machine:
        machine.install()
        machine.edit("/etc/otahsm/otahsm.toml", "preparers = 1", "preparers = 2")
        machine.follow("preparers of other users")
        yield machine


@pytest.fixture
def serving(machine: Machine) -> Iterator[Machine]:
    """The machine, while its daemon serves."""
    before = counted(machine, "preparer.ready"), counted(machine, "health.changed", serving=True)
    machine.shell("systemctl start otahsm")
    machine.wait_for("preparer.ready", count=before[0] + 2)
    machine.wait_for("health.changed", serving=True, count=before[1] + 1)
    yield machine
    machine.shell("systemctl stop otahsm")
    machine.wait_until(lambda: preparers(machine) == [], "preparers outlive their daemon")


def counted(machine: Machine, event: str, **fields: object) -> int:
    return sum(item["event"] == event and fields.items() <= item.items() for item in machine.events())


def preparers(machine: Machine) -> list[str]:
    return machine.run("pgrep", "--full", "--", "-m otahsm preparer", check=False).stdout.split()


def test_the_daemon_issues_with_preparers_that_have_users_of_their_own(serving: Machine) -> None:
    assert "20 issued" in serving.shell("otahsm device issue --count 20")
    daemon = serving.shell("cat /sys/fs/cgroup/system.slice/otahsm.service/cgroup.procs").split()
    found = preparers(serving)
    assert len(found) == 2
    assert not set(found) & set(daemon)
    users = set()
    for pid in found:
        lines = serving.shell(f"cat /proc/{pid}/status").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        users |= set(status["Uid"].split())
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"  # a filter
        assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
        assert re.search(r"Max open files +0 +0 ", serving.shell(f"cat /proc/{pid}/limits"))
    assert len(users) == 2
    assert serving.shell("id --user otahsm").strip() not in users


def test_a_preparer_that_is_killed_is_replaced_and_all_end_with_the_daemon(serving: Machine) -> None:
    before, ready = preparers(serving), counted(serving, "preparer.ready")
    serving.shell(f"kill -9 {before[0]}")
    serving.wait_for("preparer.ready", count=ready + 1)
    assert len(set(preparers(serving)) - set(before)) == 1
    assert "20 issued" in serving.shell("otahsm device issue --count 20")
    serving.shell("kill -9 " + serving.show("otahsm", "MainPID"))
    serving.wait_until(lambda: not set(before) & set(preparers(serving)), "preparers outlive a killed daemon")


def test_nobody_but_the_daemons_user_gets_a_preparer(serving: Machine) -> None:
    connect = (
        "curl",
        "--silent",
        "--max-time",
        "5",
        "--unix-socket",
        "/run/otahsm/preparer.sock",
        "http://x/",
    )
    as_nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    assert serving.run(*as_nobody, *connect, check=False).returncode == 7  # can't connect
    assert serving.run(*connect, check=False).returncode != 7


def test_whoever_takes_a_preparer_over_reaches_nothing(machine: Machine) -> None:
    assert workers.__file__
    machine.copy_in(Path(workers.__file__).with_name("hostile_preparer.py"), PROGRAM)
    start = f"/opt/otahsm/python/bin/python3 -P {PROGRAM} %i"
    machine.write(
        DROP_IN,
        f"[Service]\nExecStart=\nExecStart={start}\nEnvironment=LD_LIBRARY_PATH=/opt/otahsm/python/lib\n",
    )
    machine.shell("systemctl daemon-reload; systemctl start otahsm-signer.socket; systemctl start otahsm")
    machine.wait_until(lambda: bool(outcomes(machine)), "no preparer was started")
    # All this is there, and root may see it.
    machine.shell(
        "ls /etc/passwd /etc/otahsm/otahsm.toml /var/lib/otahsm/ledger /run/otahsm/signer.sock /root"
    )
    assert machine.show("otahsm", "ActiveState") == "active"
    machine.shell(f"systemctl stop otahsm; rm {DROP_IN}; systemctl daemon-reload")
    for outcome in outcomes(machine):
        assert outcome.pop("event") == "outcomes"
        assert outcome.pop("user") not in {0, int(machine.shell("id --user otahsm"))}
        assert outcome == OUTCOMES


def outcomes(machine: Machine) -> list[dict[str, object]]:
    """Return what hostile preparers have logged."""
    lines = machine.shell("journalctl --output=cat --no-pager").splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"event": "outcomes"')]


def test_a_preparer_that_nobody_connects_to_says_who_starts_it(fleet: Fleet) -> None:
    done = fleet.run("preparer")
    assert done.returncode == 2
    assert "standard input is not a socket" in done.stderr
    assert "systemd starts this for each connection to [issuance] preparer_socket" in done.stderr
