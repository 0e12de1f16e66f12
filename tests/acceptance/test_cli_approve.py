"""`otahsm approve`: how a second operator sees what is held, and confirms or rejects it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.harness import Fleet, RunningDaemon, running
from support.operators import new_client

DEVICES = [f"cam-{number}" for number in range(13)]


@pytest.fixture(scope="module")
def daemon(make_fleet: Callable[[], Fleet]) -> Iterator[RunningDaemon]:
    """A daemon whose client can undo nothing alone, with devices."""
    fleet = make_fleet()
    policy = fleet.folder / "policy.toml"
    policy.write_text(policy.read_text().replace("\nroles = [", "\nacts_per_day = 0\nroles = [", 1))
    (fleet.folder / "ids").write_text("\n".join(DEVICES))
    with running(fleet) as started:
        started.wait_for("health.changed", serving=True)
        started.configure_client()
        assert fleet.run("device", "issue", "--ids", "ids").returncode == 0
        yield started


@pytest.fixture
def second(daemon: RunningDaemon) -> str:
    """The configuration of a second operator."""
    path = daemon.fleet.folder / "second.toml"
    if not path.exists():
        tls = new_client(daemon.fleet, "second", 'roles = ["operator"]')
        text = daemon.fleet.toml.read_text()
        for own, other in (("tls/client.pem", tls.certificate), ("tls/client.key", tls.key)):
            assert own in text
            text = text.replace(own, str(other))
        path.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("policy.loaded")
    return str(path)


def held(daemon: RunningDaemon, *devices: str) -> int:
    """Revoke devices; return the number of the held act."""
    Path(daemon.fleet.folder / "targets").write_text("\n".join(devices))
    done = daemon.fleet.run(
        "revoke", "--file", "targets", "--reason", "superseded", "--json", "--expect", str(len(devices))
    )
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["held"] * len(devices) + ["summary"]
    assert lines[-1] == {
        "type": "summary",
        "revoked": 0,
        "already_revoked": 0,
        "held": len(devices),
        "failed": 0,
    }
    return int(lines[0]["act"])


def test_a_second_operator_sees_what_is_held_and_confirms_it(daemon: RunningDaemon, second: str) -> None:
    fleet, act = daemon.fleet, held(daemon, *DEVICES[:6])
    listed = fleet.run("approve", "list")
    (line,) = [line for line in listed.stdout.splitlines() if line.split()[0] == str(act)]
    assert re.search(r"revocation +open +quickstart +6 .* device cam-0, and 5 more$", line)
    shown = fleet.run("approve", "list", str(act), "-c", second).stdout
    assert f"Act {act}: revocation of 6 certificates" in shown
    assert all(f"  device {device}\n" in shown for device in DEVICES[:6])
    own = fleet.run("approve", "confirm", str(act), "--expect", "6")
    assert own.returncode == 1
    assert "quickstart asked for the act" in own.stderr
    for other in ([], ["--expect", "5"]):
        refused = fleet.run("approve", "confirm", str(act), "-c", second, *other)
        assert refused.returncode == 2
        said = f"confirm act {act} of quickstart: revocation of 6 certificates, for the reason superseded"
        assert f"This will {said}, for good.\n  device cam-0\n" in refused.stderr
    done = fleet.run("approve", "confirm", str(act), "--expect", "6", "-c", second)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"confirmed: act {act}, a revocation that quickstart asked for; it changed 6\n"
    assert str(act) not in fleet.run("approve", "list").stdout.split()
    (fields,) = json.loads(fleet.run("approve", "list", str(act), "--json").stdout)
    assert (fields["state"], fields["decided_policy_client"], fields["done"]) == ("confirmed", "second", 6)


def test_ranges_are_of_what_is_open(daemon: RunningDaemon, second: str) -> None:
    acts = [held(daemon, device) for device in DEVICES[6:8]]
    rejected = daemon.fleet.run("approve", "reject", f"1-{acts[-1]}", "--expect", "2", "--json", "-c", second)
    assert rejected.returncode == 0, rejected.stderr
    lines = [json.loads(line) for line in rejected.stdout.splitlines()]
    assert [(line["type"], line["id"]) for line in lines] == [("rejected", act) for act in acts]
    none = daemon.fleet.run("approve", "confirm", f"1-{acts[-1]}", "--expect", "2", "-c", second)
    assert none.returncode == 1
    assert "none of these acts is held" in none.stderr
    assert daemon.fleet.run("approve", "list").stdout == "Nothing is held.\n"
    again = daemon.fleet.run("approve", "confirm", str(acts[0]), "--expect", "1", "-c", second)
    assert again.returncode == 1
    assert "NOT_HELD" in again.stderr
    for wrong in ("x", "5-2"):
        assert daemon.fleet.run("approve", "confirm", wrong).returncode == 2


def test_one_act_of_another_kind_does_not_hide_among_many(daemon: RunningDaemon, second: str) -> None:
    fleet, acts = daemon.fleet, [held(daemon, device) for device in DEVICES[8:10]]
    order = fleet.run("batch", "create", "spares", "--count", "1000000", "--expect", "1000000")
    assert "the batch order exceeds a quota: it is held as act" in order.stderr
    acts += [held(daemon, *DEVICES[10:at]) for at in (11, 12, 13)]
    asked = fleet.run("approve", "confirm", f"1-{acts[-1]}", "-c", second)
    assert asked.returncode == 2
    assert re.search(
        r"of quickstart: 5 acts of the kind revocation, 8 changes, for the reason superseded\n"
        r"(    act \d+: .*\n){3}    \.\.\.\n    act \d+: .*\n"
        r"  of quickstart: 1 act of the kind batch, 1 change\n"
        r"    act \d+: batch: batch spares of 1,000,000 devices",
        asked.stderr,
    )
    said = "x, for good. It was cancelled by ops-1"
    denied = fleet.run("client", "deny", "cn:second", "--reason", said, "--expect", "1")
    (denial,) = re.findall(r"held as act (\d+)", denied.stderr)
    for shown, quoted in (
        (denial, f"of quickstart: denial, for the reason '{said}', for good.\n"),
        (f"1-{denial}", f"act {denial}: denial: cn:second, for the reason '{said}'\n"),
    ):
        assert quoted in fleet.run("approve", "reject", shown, "-c", second).stderr
    assert fleet.run("approve", "reject", denial, "--expect", "1").returncode == 0
    every = ("approve", "reject", f"1-{acts[-1]}", "-c", second)
    nobody = fleet.run(*every, "--asked-by", "second", "--expect", "6")
    assert (nobody.returncode, "none of these acts is held" in nobody.stderr) == (1, True)
    assert fleet.run("approve", "list", "--asked-by", "second").stdout == "Nothing is held.\n"
    assert fleet.run(*every, "--asked-by", "quickstart", "--expect", "6").returncode == 0


def test_the_glass_is_broken_on_the_host_with_the_ledgers_key(daemon: RunningDaemon) -> None:
    fleet, act = daemon.fleet, held(daemon, DEVICES[7])
    assert fleet.run("approve", "confirm", str(act), "--break-glass", "--expect", "1").returncode == 2
    key = fleet.folder / "ledger.key"
    key.rename(fleet.folder / "elsewhere")
    glass = ("approve", "confirm", str(act), "--break-glass", "--reason", "recall at night", "--expect", "1")
    without = fleet.run(*glass)
    assert without.returncode == 2
    assert "there is no [ledger] key_file" in without.stderr
    (fleet.folder / "elsewhere").rename(key)
    done = fleet.run(*glass)
    assert done.returncode == 0, done.stderr
    logged = fleet.run("audit", "--event", "act.confirmed", "--last", "1", "--json").stdout
    details = json.loads(logged)["details"]
    assert (details["act"], details["break_glass"], details["reason"]) == (act, 1, "recall at night")
    assert details["host_user"]
