"""What others could read or change keeps a daemon from starting, and `otahsm doctor` names all of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import READY_SECONDS, Fleet, running
from support.machine import Machine, booted


def refusal(fleet: Fleet) -> str:
    """Return why a daemon does not start."""
    with running(fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 2
        daemon.reader.join(10)
        return "".join(daemon.other_output)


@pytest.mark.parametrize(
    ("name", "mode", "said", "fix"),
    [
        ("tls/server.key", 0o640, "other users can read [tls] key", "chmod 600"),
        ("tls/server.key", 0o604, "other users can read [tls] key", "chmod 600"),
        ("secrets/pin", 0o640, "other users can read the PIN file", "chmod 600"),
        ("otahsm.toml", 0o664, "other users can change the configuration", "chmod go-w"),
        ("policy.toml", 0o664, "other users can change [access] policy", "chmod go-w"),
        ("tls/operator-ca.pem", 0o646, "other users can change [tls] client_ca", "chmod go-w"),
        ("tls/server.pem", 0o664, "other users can change [tls] certificate", "chmod go-w"),
        ("ca/fleet-root.pem", 0o664, "other users can change the CA certificate", "chmod go-w"),
        ("ca/checkpoint.vkey", 0o664, "other users can change [checkpoint] verifier_key", "chmod go-w"),
        ("ledger/ledger.sqlite3", 0o660, "other users can change [ledger] path", "chmod go-w"),
        ("state/login", 0o770, "other users can change [token] guard_dir", "chmod go-w"),
    ],
)
def test_an_open_file_is_refused_with_the_command_that_closes_it(
    fleet: Fleet, name: str, mode: int, said: str, fix: str
) -> None:
    path = fleet.folder / name
    path.chmod(mode)
    path = fleet.toml.relative_to(fleet.folder) if name == "otahsm.toml" else path  # as it is named
    assert refusal(fleet) == f"otahsm: {said} {path}\n        {fix} {path}\n"
    checks = json.loads(fleet.run("doctor", "--json").stdout)
    failed = [check for check in checks if check["subject"] == "file modes"]
    assert [(check["status"], said in check["message"]) for check in failed] == [("fail", True)]


def test_a_folder_or_a_link_that_others_can_change_is_refused(fleet: Fleet) -> None:
    tls = fleet.folder / "tls"
    tls.chmod(0o757)
    assert f"other users can change the folder {tls} of [tls] key {tls}/server.key" in refusal(fleet)
    checks = json.loads(fleet.run("doctor", "--json").stdout)
    said = [check["message"] for check in checks if check["subject"] == "file modes"]
    assert f"other users can change the folder {tls} of [tls] client_ca {tls}/operator-ca.pem" in said
    tls.chmod(0o755)
    public = fleet.folder / "public"
    public.mkdir()
    public.chmod(0o777)
    (public / "ca.pem").symlink_to("../tls/operator-ca.pem")
    fleet.edit('client_ca = "tls/operator-ca.pem"', 'client_ca = "public/ca.pem"')
    assert f"other users can change the folder {public} of [tls] client_ca" in refusal(fleet)


def test_a_password_of_postgresql_that_others_may_read_is_refused(fleet: Fleet) -> None:
    ledger = fleet.config.ledger
    assert ledger is not None
    password = fleet.folder / "secrets/postgres"
    password.write_text("none")
    password.chmod(0o644)
    fleet.edit(
        'path = "ledger/ledger.sqlite3"',
        'url = "postgresql://nobody@127.0.0.1:1/none"\npassword_file = "secrets/postgres"',
    )
    assert "can read [ledger] password_file" in refusal(fleet)


def test_a_module_that_others_may_change_is_not_loaded(fleet: Fleet) -> None:
    token = fleet.config.token
    assert token is not None
    module = fleet.folder / "module.so"
    module.write_bytes(token.uri.module.read_bytes())
    module.chmod(0o777)
    fleet.edit(f"module-path={token.uri.module}", f"module-path={module}")
    assert f"can change the PKCS#11 module {module}" in refusal(fleet)


def test_a_quickstart_with_a_generous_umask_makes_files_that_a_daemon_takes(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        made = Fleet(tmp_path).run("quickstart", "fleet", "--port", "1")
    finally:
        os.umask(before)
    assert made.returncode == 0, made.stderr
    checks = json.loads(Fleet(tmp_path / "fleet").run("doctor", "--json").stdout)
    assert [check["status"] for check in checks if check["subject"] == "file modes"] == ["ok"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with booted() as machine:
        machine.install()
        yield machine


def test_a_file_of_another_user_is_refused_and_one_of_roots_is_not(machine: Machine) -> None:
    machine.shell("chown root tls/operator-ca.pem && systemctl start otahsm")
    machine.wait_for("health.changed", serving=True)
    machine.shell("systemctl stop otahsm && chown nobody tls/operator-ca.pem && systemctl start otahsm")
    machine.wait_until(lambda: machine.show("otahsm", "ExecMainStatus") == "2", "it is not refused")
    assert machine.show("otahsm", "NRestarts") == "0"
    journal = machine.shell("journalctl --unit=otahsm --output=cat")
    assert "belongs to another user, who can change it" in journal


def test_root_looks_at_a_daemon_of_another_user_and_has_nothing_to_say(machine: Machine) -> None:
    checks = json.loads(machine.run("otahsm", "doctor", "--json", check=False).stdout)
    assert [check["status"] for check in checks if check["subject"] == "file modes"] == ["ok"]
    machine.shell("chmod 666 tls/operator-ca.pem")
    checks = json.loads(machine.run("otahsm", "doctor", "--json", check=False).stdout)
    assert [check["status"] for check in checks if check["subject"] == "file modes"] == ["fail"]
