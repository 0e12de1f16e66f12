"""Signers of another user than the process that faces the network, as the units of deploy/ start them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from softhsm import find_module

from support.harness import Fleet
from support.machine import ROOT, Machine, booted
from support.tokens.faulty import compile_shim

_DAEMON: Final = "setpriv --reuid=otahsm --regid=otahsm --clear-groups"
CONTROL: Final = "/var/lib/otahsm-signer/control"
TOML: Final = "/etc/otahsm/otahsm.toml"
OTHER: Final = "/etc/otahsm/of-daemon.toml"
JOURNAL: Final = "/var/lib/otahsm-signer/login/signed/journal"
HOSTILE: Final = ROOT / "tests/support/attacks/hostile_daemon.py"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with two users; nothing serves yet."""
    with booted() as machine:
        machine.install()
        machine.follow("two users")
        yield machine


@pytest.fixture
def serving(machine: Machine) -> Machine:
    """The machine, when its daemon serves."""
    machine.shell("systemctl start otahsm")
    machine.wait_for("signer.ready", count=2)
    machine.wait_for("health.changed", serving=True)
    return machine


def signers(machine: Machine) -> list[str]:
    return machine.run("pgrep", "--full", "--uid=otahsm-signer", "otahsm signer", check=False).stdout.split()


def refused(machine: Machine, *command: str) -> bool:
    """Whether the daemon's user is refused something that root can do."""
    assert machine.run(*command).returncode == 0
    done = machine.run(*_DAEMON.split(), *command, check=False)
    return done.returncode != 0 and "ermission denied" in done.stderr


def test_the_daemons_user_can_issue_and_reach_neither_pin_nor_token_nor_signer(serving: Machine) -> None:
    assert "20 issued" in serving.shell("otahsm device issue --count 20")
    assert len(signers(serving)) == 2
    daemon = serving.show("otahsm", "MainPID")
    processes = serving.shell("cat /sys/fs/cgroup/system.slice/otahsm.service/cgroup.procs").split()
    assert len(processes) == 2  # it and one preparer; no signer is its child
    for pid in processes:
        assert serving.shell(f"stat --format=%U /proc/{pid}/task").strip() in {"otahsm", "root"}
        assert "softhsm" not in serving.shell(f"cat /proc/{pid}/maps")
    assert refused(serving, "cat", "secrets/pin")
    assert refused(serving, "ls", "/var/lib/otahsm-signer/token")
    for pid in signers(serving):
        assert "softhsm" in serving.shell(f"cat /proc/{pid}/maps")
        assert refused(serving, "dd", f"if=/proc/{pid}/mem", "of=/dev/null", "bs=1", "count=0")
        assert serving.run(*_DAEMON.split(), "kill", pid, check=False).returncode != 0
    assert daemon in processes


def test_nobody_but_the_daemons_user_gets_a_signer(serving: Machine) -> None:
    connect = ("curl", "--silent", "--max-time", "5", "--unix-socket", "/run/otahsm/signer.sock", "http://x/")
    as_nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    assert serving.run(*as_nobody, *connect, check=False).returncode == 7  # can't connect
    assert serving.run(*connect, check=False).returncode != 7
    assert "20 issued" in serving.shell("otahsm device issue --count 20")


def test_a_signer_that_is_killed_is_replaced_and_all_end_with_the_daemon(serving: Machine) -> None:
    before = signers(serving)
    serving.shell(f"kill -9 {before[0]}")
    serving.wait_for("signer.lost")
    serving.wait_for("signer.ready", count=3)
    assert len(set(signers(serving)) - set(before)) == 1
    assert "20 issued" in serving.shell("otahsm device issue --count 20")
    serving.shell("systemctl stop otahsm")
    assert serving.show("otahsm", "Result") == "success"
    serving.wait_until(lambda: signers(serving) == [], "signers outlive their daemon")
    serving.shell("systemctl start otahsm")
    serving.wait_for("health.changed", serving=True, count=2)
    serving.shell("kill -9 " + serving.show("otahsm", "MainPID"))
    serving.wait_for("health.changed", serving=True, count=3)  # systemd has started it again
    serving.wait_until(lambda: len(signers(serving)) == 2, "signers outlive a daemon that was killed")


def put_shim_before_token(machine: Machine, library: Path) -> None:
    """Have signers load the module of tests/shim, which behaves at first."""
    machine.copy_in(library, "/usr/lib/shim.so")
    machine.edit(TOML, r"module-path=[^&]*", "module-path=/usr/lib/shim.so")
    environment = {
        "SHIM_MODULE": str(find_module()),
        "SHIM_CONTROL": CONTROL,
        "SHIM_LOG": "/var/lib/otahsm-signer/log",
        "SHIM_SLOTS": "/otahsm-slots",
    }
    lines = "".join(f'\n{name} = "{value}"' for name, value in environment.items())
    machine.edit(TOML, r"^\[token.environment\]", "[token.environment]" + lines)
    machine.shell(f"printf %s >{CONTROL}")


def test_a_signer_that_hangs_in_the_vendors_library_is_replaced_and_ends(
    machine: Machine, tmp_path: Path
) -> None:
    put_shim_before_token(machine, compile_shim(tmp_path))
    machine.edit(TOML, r"^sign_timeout_seconds.*", "sign_timeout_seconds = 1.0")
    machine.shell("systemctl start otahsm")
    machine.wait_for("signer.ready", count=2)
    before = signers(machine)
    machine.shell(f"printf C_Sign=hang >{CONTROL}")
    machine.wait_for("signer.lost", count=2)
    machine.wait_until(lambda: not set(before) & set(signers(machine)), "signers that hang live on")
    machine.shell(f"printf %s >{CONTROL}")
    machine.wait_for("health.changed", serving=True, count=2)
    assert "20 issued" in machine.shell("otahsm device issue --count 20")


def test_a_login_that_has_begun_is_finished_though_the_daemon_is_killed(
    machine: Machine, tmp_path: Path
) -> None:
    put_shim_before_token(machine, compile_shim(tmp_path))
    log = "cat /var/lib/otahsm-signer/log 2>/dev/null || true"
    machine.shell(f"printf C_Login=3000ms >{CONTROL}; systemctl start otahsm")
    machine.wait_until(lambda: "login" in machine.shell(log), "no signer logs in")
    machine.shell("systemctl kill --signal=KILL otahsm; systemctl stop otahsm")
    machine.wait_until(lambda: signers(machine) == [], "signers outlive their daemon")
    assert "login-done" in machine.shell(log)


def test_a_network_process_that_was_taken_over_gets_nothing_but_certificates_of_devices_and_leaves_traces(
    serving: Machine,
) -> None:
    assert "20 issued" in serving.shell("otahsm device issue --count 20")
    serving.copy_in(HOSTILE, "/opt/hostile_daemon.py")
    python = "/opt/otahsm/python/bin/python3"
    path = "PYTHONPATH=/opt/otahsm:/opt/otahsm/packages LD_LIBRARY_PATH=/opt/otahsm/python/lib"
    got = json.loads(serving.shell(f"{_DAEMON} env {path} {python} -P /opt/hostile_daemon.py {TOML}"))
    assert {what for what, answer in got.items() if answer == "signed"} == {
        "a certificate of a device",  # the stated limit
        "a CRL with two entries",  # it can revoke
    }
    assert {what for what, answer in got.items() if answer == "error"} == {
        "another configuration",
        "another token",
        "a token of its own",
    }
    assert {what for what, answer in got.items() if answer == "Permission denied"} == {
        "the PIN",
        "the journal",
    }
    refused = {what for what, answer in got.items() if answer == "refused"}
    assert len(refused) == len(got) - 7 == 10
    # What it got, the signers' journal has, which it can neither write nor read.
    done = serving.run("otahsm", "ledger", "verify", "--journal", JOURNAL, check=False)
    assert done.returncode == 1
    assert "it was signed, and the ledger has no intent for it" in done.stdout
    assert "CRL 1000 of " in done.stdout
    assert "SIGNERS REFUSED 10 requests" in done.stdout
    assert "2 MISMATCHES" in done.stdout


def test_root_joins_the_ledger_for_signers_who_can_not_read_it(serving: Machine) -> None:
    signed = "/var/lib/otahsm-signer/login/signed"
    assert "20 issued" in serving.shell("otahsm device issue --count 20")
    serving.shell(f"systemctl stop otahsm; rm -r {signed}/last; systemctl start otahsm")
    serving.wait_for("health.changed", serving=True, count=2)
    checkpoint = ("otahsm", "ledger", "checkpoint", "--new", "--output", "new.note", "--patience", "0")
    refused = serving.run(*checkpoint, check=False)
    assert refused.returncode == 4
    assert "don't know which checkpoint" in refused.stderr
    join = ("otahsm", "ledger", "join", "--expect", "20")
    as_signers = _DAEMON.replace("=otahsm", "=otahsm-signer").split()
    for user, status in ((as_signers, 3), (_DAEMON.split(), 2)):  # neither can do both
        done = serving.run(*user, *join, check=False)
        assert done.returncode == status, done.stderr
        assert "Run this as root" in done.stderr
    serving.run(*join)
    serving.run(*checkpoint)
    for folder, owner in (("/var/lib/otahsm-signer", "otahsm-signer"), ("/var/lib/otahsm", "otahsm")):
        assert serving.shell(f"find {folder} ! -user {owner}") == ""


def test_a_daemon_can_name_no_other_module_pin_or_key_to_a_signer(machine: Machine) -> None:
    # It may have been taken over, or have another configuration: signers read their own.
    machine.shell(f"cp --preserve {TOML} {OTHER}")
    machine.edit(OTHER, r"module-path=[^&]*", "module-path=/tmp/evil.so")
    machine.edit(OTHER, r"pin-source=[^\"]*", "pin-source=file:/etc/shadow")
    machine.edit("/etc/systemd/system/otahsm.service", r"otahsm\.toml$", "of-daemon.toml")
    machine.shell("systemctl daemon-reload; systemctl start otahsm")
    machine.wait_for("signer.ready", count=2)  # with the signers' own module and PIN
    assert all("softhsm" in machine.shell(f"cat /proc/{pid}/maps") for pid in signers(machine))
    machine.shell("systemctl stop otahsm")
    machine.edit(OTHER, r"object=fleet-root;id=%01", "object=another;id=%07")
    machine.shell("systemctl start otahsm")
    machine.wait_for("signer.failed", reason="CONFIG")
    said = [event["message"] for event in machine.events() if event["event"] == "signer.failed"]
    assert said[-1].startswith("the daemon and its signers have different configurations")


def test_a_signer_that_nobody_connects_to_says_who_starts_it(fleet: Fleet) -> None:
    done = fleet.run("signer")
    assert done.returncode == 2
    assert "standard input is not a socket" in done.stderr
    assert "systemd starts this" in done.stderr


def test_a_pin_that_is_refused_costs_one_try_and_the_guard_belongs_to_the_signers(serving: Machine) -> None:
    assert serving.shell("stat --format=%U /var/lib/otahsm-signer/login").strip() == "otahsm-signer"
    serving.shell("systemctl stop otahsm; echo 00000000 >secrets/pin; systemctl start otahsm || true")
    serving.wait_for("signer.failed", reason="PIN_REFUSED")
    serving.wait_until(lambda: serving.show("otahsm", "ExecMainStatus") == "4", "it goes on")
    assert "refused" in serving.shell("cat /var/lib/otahsm-signer/login/login.json")
