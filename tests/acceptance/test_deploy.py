"""The units of deploy/, under systemd: what they keep a daemon from, and that tokens work under them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support.machine import ROOT, Machine, booted

UNITS: Final = sorted(path.name for path in (ROOT / "deploy").iterdir())
SERVICES: Final = [name for name in UNITS if name.endswith(".service")]
WORST: Final = {"otahsm-preparer@.service": 0.5}  # of others: 1.5


def analyze(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_PAGER": "", "LC_ALL": "C.UTF-8"},
    )
    assert (done.returncode, done.stderr) == (0, ""), (arguments, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_finds_little_that_a_service_may_do_without_need(name: str) -> None:
    said = analyze("security", "--offline=yes", str(ROOT / "deploy" / name))
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    assert exposure, said
    assert float(exposure[1]) <= WORST.get(name, 1.5), said


@pytest.mark.parametrize("name", UNITS)
def test_systemd_has_nothing_to_say_against_a_unit(name: str) -> None:
    analyze("verify", str(ROOT / "deploy" / name))


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with otahsm on it, whose daemon serves under its unit."""
    with booted() as machine:
        machine.install()
        machine.shell("systemctl start otahsm")
        machine.wait_for("health.changed", serving=True)
        yield machine


def test_a_daemon_with_a_token_of_softhsm2_issues_under_its_unit_and_stops(machine: Machine) -> None:
    machine.wait_for("signer.ready", count=2)
    assert "20 issued" in machine.shell("otahsm device issue --count 20")
    machine.shell("kill -9 " + machine.pids("otahsm.token.signer")[0])
    machine.wait_for("signer.ready", count=3)
    machine.shell("systemctl stop otahsm")
    assert machine.show("otahsm", "ExecMainStatus") == "0"
    assert machine.show("otahsm", "Result") == "success"
    assert machine.pids("otahsm.token.signer") == []


def test_every_process_of_the_service_has_no_privilege_and_gets_none(machine: Machine) -> None:
    machine.wait_for("signer.ready", count=2)
    pids = machine.shell("cat /sys/fs/cgroup/system.slice/otahsm.service/cgroup.procs").split()
    assert len(pids) == 4  # the daemon, two signers, one preparer
    for pid in pids:
        lines = machine.shell(f"cat /proc/{pid}/status").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"  # a filter
        assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["Umask"] == "0077"
        assert re.search(r"Max core file size +0 +0 ", machine.shell(f"cat /proc/{pid}/limits"))


def within(machine: Machine, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where the daemon is, as its user: it sees the files that the daemon sees."""
    pid = machine.show("otahsm", "MainPID")
    user = machine.shell("id --user otahsm").strip()
    enter = ("nsenter", f"--target={pid}", "--mount", f"--setuid={user}", f"--setgid={user}")
    return machine.run(*enter, "/bin/sh", "-c", script, check=False)


def test_the_service_writes_to_its_state_alone_and_runs_nothing_from_there(machine: Machine) -> None:
    for place in ("/etc/otahsm/otahsm.toml", "/usr/bin/new", "/opt/otahsm/new", "/var/log/new"):
        refused = within(machine, f"echo x >>{place}")
        assert refused.returncode != 0
        assert "Read-only file system" in refused.stderr
    assert (
        within(machine, "echo 'echo run' >/var/lib/otahsm/new && chmod +x /var/lib/otahsm/new").returncode
        == 0
    )
    ran = within(machine, "/var/lib/otahsm/new")
    assert (ran.stdout, "Permission denied" in ran.stderr) == ("", True)
    assert within(machine, "ls /home /root").returncode != 0
    machine.shell("touch /tmp/of-another")
    assert within(machine, "ls -A /tmp").stdout == ""
    assert within(machine, "ls /dev").stdout.split().count("tty1") == 0


def test_a_token_behind_the_socket_of_p11_kit_works_under_the_unit(machine: Machine) -> None:
    machine.shell("systemctl stop otahsm")
    (client,) = Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so")
    machine.shell(
        "systemd-run --unit=p11-kit --property=User=otahsm --property=RuntimeDirectory=p11-kit"
        " --property=Type=forking --setenv=SOFTHSM2_CONF=/var/lib/otahsm/token/softhsm2.conf"
        " p11-kit server --provider=/usr/lib/softhsm/libsofthsm2.so --name=/run/p11-kit/pkcs11"
        " pkcs11:token=otahsm-quickstart"
    )
    machine.shell(
        f"sed -i -e 's#module-path=[^&]*#module-path={client}#'"
        " -e 's#^SOFTHSM2_CONF = .*#P11_KIT_SERVER_ADDRESS = \"unix:path=/run/p11-kit/pkcs11\"#'"
        " otahsm.toml"
    )
    machine.shell("systemctl start otahsm")
    machine.wait_for("health.changed", serving=True, count=2)
    assert "20 issued" in machine.shell("otahsm device issue --count 20")
