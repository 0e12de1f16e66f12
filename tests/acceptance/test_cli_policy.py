"""`otahsm policy`, `client` and `audit`: as the security team uses them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.harness import Fleet, RunningDaemon, running
from support.operators import ISSUER, OperatorCa, allow, new_client

MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture(scope="module")
def daemon(make_fleet: Callable[[], Fleet]) -> Iterator[RunningDaemon]:
    fleet = make_fleet()
    allow(fleet, "operator", "cn:operator", 'roles = ["operator"]')
    allow(fleet, "line-5", "cn:line-5", f"{ISSUER}\nper_day = 2\ntotal = 5\nper_second = 9")
    with running(fleet) as started:
        started.wait_for("health.changed", serving=True)
        started.configure_client()
        yield started


def test_a_policy_that_is_right_lists_its_clients(fleet: Fleet) -> None:
    new_client(fleet, "line-3")
    done = fleet.run("policy", "check")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "quickstart: admin, auditor, issuer, operator",
        "line-3: issuer",
        "The policy is valid. It allows 2 clients, and nobody else.",
    ]
    as_json = json.loads(fleet.run("policy", "check", "--json").stdout)
    assert as_json["line-3"]["profiles"] == "*"


def test_a_policy_says_which_names_its_clients_had_before(fleet: Fleet) -> None:
    new_client(fleet, "line-3", f'{ISSUER}\nformerly = ["old", "line"]')
    assert "line-3 (formerly line, old): issuer" in fleet.run("policy", "check").stdout
    assert re.search("formerly +line, old", fleet.run("policy", "explain", "cn:line-3").stdout)
    new_client(fleet, "line-4", f'{ISSUER}\nformerly = ["old"]')
    done = fleet.run("policy", "check")
    assert done.returncode == 2
    assert "line-3 and line-4 both were formerly old" in done.stderr


def test_a_policy_that_is_wrong_says_where_and_exits_with_2(fleet: Fleet) -> None:
    allow(fleet, "line-3", "cn:line-3", 'roles = ["issuer"]')
    done = fleet.run("policy", "check")
    assert done.returncode == 2
    assert "policy.toml is invalid: clients.line-3: an issuer needs profiles" in done.stderr


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (["cn:line-3"], 0, "Yes, it may."),
        (["cn:line-3", "--device-id", "cam-17"], 0, "Yes, it may."),
        (["cn:line-3", "--device-id", "dog-17"], 1, "No: line-3 may not issue for the device id 'dog-17'."),
        (["cn:line-3", "--profile", "other"], 1, "No: line-3 may not issue under the profile 'other'."),
        (["cn:line-3", "--call", "LedgerService/GetCertificate"], 0, "Yes, it may."),
        (["cn:line-3", "--call", "RevocationService/RevokeCertificates"], 1, "it lacks the role operator"),
        (["cn:line-3", "--at", "2026-11-28T12:00Z"], 1, "No: line-3 is not allowed at this time."),
        (["cn:nobody"], 1, "No: the policy has no client cn:nobody."),
        (["spki:" + "0" * 64], 1, "No: the policy has no client"),
    ],
)
def test_a_policy_is_explained(fleet: Fleet, asked: list[str], code: int, said: str) -> None:
    terms = 'roles = ["issuer"]\nprofiles = ["ota-connect"]\ndevice_ids = "cam-[0-9]+"'
    allow(fleet, "line-3", "cn:line-3", f'{terms}\ntimes = ["Mon-Fri 00:00-24:00"]\nper_day = 5000')
    moment = [] if "--at" in asked else ["--at", "2026-11-25T12:00Z"]
    done = fleet.run("policy", "explain", *asked, *moment)
    assert done.returncode == code, done.stderr
    assert said in done.stdout
    if asked[0] == "cn:line-3":
        assert re.search(r"^per day +5,000$", done.stdout, re.MULTILINE)
        assert re.search(r"^times +Mon,Tue,Wed,Thu,Fri 00:00-24:00$", done.stdout, re.MULTILINE)


def test_a_certificate_is_explained_by_its_file(fleet: Fleet) -> None:
    tls = new_client(fleet, "line-3", ISSUER)
    done = fleet.run("policy", "explain", str(tls.certificate), "--json")
    assert json.loads(done.stdout)["client"] == "line-3"
    (fleet.folder / "no.pem").write_text("no certificate")
    wrong = fleet.run("policy", "explain", "no.pem")
    assert wrong.returncode == 2
    assert "no.pem is not a certificate in PEM" in wrong.stderr


def test_a_call_that_there_is_not_is_wrong_use(fleet: Fleet) -> None:
    done = fleet.run("policy", "explain", "cn:quickstart", "--call", "LedgerService/Erase")
    assert done.returncode == 2
    assert "name a service and one of its calls" in done.stderr


def test_a_client_is_cut_off_listed_and_let_in_again(daemon: RunningDaemon) -> None:
    fleet = daemon.fleet
    unknown = fleet.run("client", "deny", "cn:line-3", "--reason", "laptop stolen")
    assert unknown.returncode == 1
    assert "no client of the policy has the name cn:line-3" in unknown.stderr
    deny = ("client", "deny", "cn:line-3", "--reason", "laptop stolen", "--anyway")
    assert fleet.run(*deny, "--expect", "2").returncode == 2
    assert fleet.run("client", "list").stdout == "No client is denied.\n"
    denied = fleet.run(*deny, "--expect", "1")
    assert denied.stderr == (
        "This will deny access to 1 client, cn:line-3.\n  no client of the policy has this name\n"
    )
    assert denied.returncode == 0, denied.stderr
    said = rf"cn:line-3 is denied since {MOMENT} UTC: no client of the policy has this name\.\n"
    assert re.fullmatch(said, denied.stdout)
    listed = fleet.run("client", "list")
    assert re.search(rf"^{MOMENT} UTC  cn:line-3 +cn:quickstart +laptop stolen$", listed.stdout, re.MULTILINE)
    assert json.loads(fleet.run("client", "list", "--json").stdout)[0]["subject"] == "cn:line-3"
    allowed = fleet.run("client", "allow", "cn:line-3", "--json")
    assert json.loads(allowed.stdout) == {"subject": "cn:line-3"}
    again = fleet.run("client", "allow", "cn:line-3")
    assert again.returncode == 1
    assert "is not denied" in again.stderr


def test_one_certificate_is_named_by_its_file(daemon: RunningDaemon) -> None:
    fleet = daemon.fleet
    tls = OperatorCa(fleet).issue("line-4")
    denied = fleet.run("client", "deny", "--certificate", str(tls.certificate), "--json", "--expect", "1")
    subject = json.loads(denied.stdout)["subject"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", subject)
    assert fleet.run("client", "allow", subject).returncode == 0


def test_quotas_are_shown_and_reset(daemon: RunningDaemon) -> None:
    fleet = daemon.fleet
    config = config_of(fleet, "line-5")
    issue = ("device", "issue", "--count", "2", "--config", str(config), "--out", str(fleet.folder / "five"))
    assert fleet.run(*issue).returncode == 0
    assert "quota of 2 certificates a day" in fleet.run(*issue).stderr
    shown = fleet.run("client", "quota")
    assert re.search(r"^line-5 +2 of 5 +2 of 2 +\d of 9$", shown.stdout, re.MULTILINE)
    assert re.search(r"^quickstart +0 +0$", shown.stdout, re.MULTILINE)
    assert fleet.run("client", "quota", "--reset").returncode == 2
    unknown = fleet.run("client", "quota", "line-6", "--reset")
    assert (unknown.returncode, "no client 'line-6'" in unknown.stderr) == (1, True)
    for name in ("line-5", "operator"):
        refused = fleet.run("client", "quota", "line-5", "--reset", "--config", str(config_of(fleet, name)))
        assert (refused.returncode, "it lacks the role admin" in refused.stderr) == (4, True)
    own = fleet.run("client", "quota", "quickstart", "--reset")
    assert (own.returncode, "quickstart can't reset its own quota" in own.stderr) == (4, True)
    (reset,) = json.loads(fleet.run("client", "quota", "line-5", "--reset", "--json").stdout)
    assert (reset["client"], reset["total"], reset["day"], reset["available_now"]) == ("line-5", 2, 0, 9)
    assert fleet.run(*issue).returncode == 0
    (line,) = fleet.run("audit", "--event", "quota.reset", "--json").stdout.splitlines()
    event = json.loads(line)
    assert (event["client"], event["details"]["quota_of"]) == ("cn:quickstart", "line-5")
    assert (event["details"]["before_taken"], event["details"]["before_day_taken"]) == (2, 2)


def config_of(fleet: Fleet, name: str) -> Path:
    """Write the configuration of another client."""
    tls = OperatorCa(fleet).issue(name)
    config = fleet.folder / f"{name}.toml"
    text = fleet.toml.read_text().replace("tls/client.pem", str(tls.certificate))
    config.write_text(text.replace("tls/client.key", str(tls.key)))
    return config


@pytest.mark.parametrize("arguments", [[], ["cn:a", "--certificate", "x.pem"]])
def test_who_is_meant_is_said_once(daemon: RunningDaemon, arguments: list[str]) -> None:
    done = daemon.fleet.run("client", "deny", *arguments)
    assert done.returncode == 2
    assert "give either a name or --certificate" in done.stderr


def test_what_a_role_may_not_is_refused_with_the_next_step(daemon: RunningDaemon) -> None:
    fleet = daemon.fleet
    config = config_of(fleet, "operator")
    for command, role in (
        (["client", "allow", "cn:line-3"], "admin"),
        (["audit"], "admin or auditor"),
        (["device", "issue", "--count", "1"], "issuer"),
    ):
        done = fleet.run(*command, "--config", str(config))
        assert done.returncode == 4, done.stderr
        assert f"it lacks the role {role}" in done.stderr
        assert "otahsm policy explain" in done.stderr


def test_the_trail_is_searched_and_followed(daemon: RunningDaemon) -> None:
    fleet = daemon.fleet
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("policy.loaded")
    found = fleet.run("audit", "--event", "policy.", "--json")
    events = [json.loads(line) for line in found.stdout.splitlines()]
    assert {event["name"] for event in events} == {"policy.loaded"}
    assert events[0]["details"]["file"].endswith("policy.toml")
    shown = fleet.run("audit", "--client", "daemon", "--after", "2020-01-01")
    assert re.search(rf"^{MOMENT} UTC  daemon\.started +daemon  address=", shown.stdout, re.MULTILINE)
    assert len(fleet.run("audit", "--before", "2020-01-01").stdout.splitlines()) == 1, "a heading, no event"
    started = fleet.run("audit", "--client", "daemon", "--json").stdout.splitlines()
    assert len(started) > 1
    newest = fleet.run("audit", "--client", "daemon", "--json", "--last", str(len(started) - 1))
    assert newest.stdout.splitlines() == started[:0:-1]
    assert fleet.run("audit", "--last", "1", "--follow").returncode == 2
    wrong = fleet.run("audit", "--after", "yesterday")
    assert wrong.returncode == 2
