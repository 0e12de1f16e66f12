"""What processes with a PIN, and the one that faces the network, protect themselves from without any systemd.

Each test has a machine with users of its own: root may look at everything, so these things show as another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from support.machine import Machine, booted

# A program for pin-source that notes whether another process of its user can see what asked it.
_SPY: Final = """#!/bin/sh
if cat /proc/$PPID/environ >/dev/null 2>&1; then echo open; else echo closed; fi >>/var/lib/otahsm/seen
cat /etc/otahsm/secrets/pin
"""
_ATTACH: Final = (
    "import ctypes, os, sys; sys.exit(ctypes.CDLL(None).ptrace(16, int(sys.argv[1]), None, None) != 0)"
)
_BENCH: Final = "bench token --seconds 0.1 --key-type ec-p256 --processes 1 --sessions 1"
_AS_OTAHSM: Final = "setpriv --reuid=otahsm --regid=otahsm --clear-groups"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with otahsm on it, and nothing that runs."""
    with booted() as machine:
        machine.install()
        machine.shell("rm /etc/systemd/system/otahsm*; systemctl daemon-reload")
        yield machine


def serve(machine: Machine) -> None:
    """Run a daemon that nobody restricts: core dumps are wanted, and files for everybody."""
    machine.shell(
        "systemd-run --unit=otahsm --uid=otahsm --property=LimitCORE=infinity --property=UMask=0000"
        " --working-directory=/var/lib/otahsm otahsm serve --config /etc/otahsm/otahsm.toml"
    )
    machine.wait_for("health.changed", serving=True)


def pids(machine: Machine) -> list[str]:
    return machine.shell("cat /sys/fs/cgroup/system.slice/otahsm.service/cgroup.procs").split()


def as_otahsm(machine: Machine, *command: str) -> int:
    return machine.run(*_AS_OTAHSM.split(), *command, check=False).returncode


def test_another_process_of_the_daemons_user_can_neither_look_into_it_nor_attach(machine: Machine) -> None:
    serve(machine)
    machine.wait_for("signer.ready", count=2)
    machine.shell("systemd-run --unit=other --uid=otahsm sleep infinity")
    other = machine.show("other", "MainPID")
    assert as_otahsm(machine, "cat", f"/proc/{other}/environ") == 0  # so it is with any other process
    found = pids(machine)
    assert len(found) == 4
    for pid in found:
        assert as_otahsm(machine, "cat", f"/proc/{pid}/environ") != 0
        assert as_otahsm(machine, "cat", f"/proc/{pid}/mem") != 0
        assert as_otahsm(machine, "/opt/otahsm/python/bin/python3", "-c", _ATTACH, pid) != 0
        status = machine.shell(f"cat /proc/{pid}/status")
        assert "NoNewPrivs:\t1" in status
        assert "Umask:\t0077" in status


def test_a_daemon_that_is_aborted_leaves_no_core_dump(machine: Machine) -> None:
    serve(machine)
    machine.wait_for("signer.ready", count=2)
    assert all("Max core file size        0                    0" in machine.shell(f"cat /proc/{pid}/limits")
               for pid in pids(machine))  # fmt: skip
    machine.shell("kill -ABRT " + " ".join(pids(machine)))
    machine.wait_until(lambda: machine.show("otahsm", "ActiveState") == "failed", "it does not end")
    assert machine.show("otahsm", "Result") == "signal"  # and not "core-dump"
    assert machine.shell("find /var/lib/otahsm /tmp -name 'core*' -size +0 -type f") == ""


def test_what_the_daemon_writes_is_its_owners_alone_but_crls_are_for_everybody(machine: Machine) -> None:
    machine.shell(
        "printf '%s\\n' [crl] 'url = \"http://crl.example.com/fleet.crl\"'"
        " 'directory = \"/var/lib/otahsm/crl\"' >>otahsm.toml"
    )
    serve(machine)
    machine.wait_for("crl.written")
    machine.shell("otahsm device issue --count 3")
    listed = machine.shell(
        "find /var/lib/otahsm -not -path '*/token*' -not -path '*/crl*' -mindepth 1 -perm /077"
    )
    assert listed == ""
    assert machine.shell("stat --format=%a /var/lib/otahsm/crl /var/lib/otahsm/crl/fleet.crl").split() == [
        "755",
        "644",
    ]


@pytest.mark.parametrize("command", ["ca show", "doctor", "ledger init-key", _BENCH])
def test_a_command_that_learns_the_pin_is_closed_before_it_does(machine: Machine, command: str) -> None:
    machine.write("/usr/local/bin/spy", _SPY)
    machine.shell("chmod 755 /usr/local/bin/spy")
    machine.shell("sed -i -e 's#file:secrets/pin#%7C/usr/local/bin/spy#' -e 's/%C1/%C2/' otahsm.toml")
    machine.shell("sed -i -e 's#ledger-checkpoint#another#' -e 's#checkpoint.vkey#another.vkey#' otahsm.toml")
    done = machine.run(*_AS_OTAHSM.split(), "otahsm", *command.split(), check=False)
    seen = machine.shell("cat /var/lib/otahsm/seen").split()
    assert set(seen) == {"closed"}, (done.stdout, done.stderr)


def test_a_pin_command_can_not_become_root(machine: Machine) -> None:
    machine.shell(
        "install -m 4755 /bin/cat /usr/local/bin/root-cat; install -m 600 secrets/pin /root/pin;"
        f" {_AS_OTAHSM} /usr/local/bin/root-cat /root/pin >/dev/null;"  # it does become root
        "sed -i 's#file:secrets/pin#%7C/usr/local/bin/root-cat%20/root/pin#' otahsm.toml"
    )
    shown = machine.run(*_AS_OTAHSM.split(), "otahsm", "ca", "show", check=False)
    assert shown.returncode == 2
    assert "the command for the PIN, /usr/local/bin/root-cat, exited with status 1" in shown.stderr
