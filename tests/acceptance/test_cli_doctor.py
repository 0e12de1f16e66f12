"""`otahsm doctor`: well is well, and each thing that is wrong is named, with what to do."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.checks import Check
from otahsm.doctor import diagnose, diagnostics
from otahsm.quickstart.certificates import FileCa

from support.external_ca import external_root, sign
from support.harness import Fleet, running
from support.operators import OperatorCa, allow
from support.programs import make_ca, openssl
from support.tokens.faulty import FaultyToken, behind_shim, compile_shim


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def faulty(make_fleet: Callable[[], Fleet], shim: Path) -> Iterator[FaultyToken]:
    with behind_shim(make_fleet(), shim) as faulty:
        yield faulty


def asked(fleet: Fleet) -> tuple[int, dict[str, dict[str, Any]]]:
    """Ask the doctor; return the exit status and the worst that was said of each thing."""
    done = fleet.run("doctor", "--json")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, worst_of(json.loads(done.stdout))


def worst_of(checks: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    order = ["ok", "warning", "fail"]
    worst: dict[str, dict[str, Any]] = {}
    for check in checks:
        before = worst.get(check["subject"], {"status": "ok"})
        if order.index(check["status"]) >= order.index(before["status"]):
            worst[check["subject"]] = check
    return worst


def test_a_fleet_of_quickstart_is_well_also_beside_its_daemon(fleet: Fleet) -> None:
    status, checks = asked(fleet)
    assert status == 0
    assert {subject for subject, check in checks.items() if check["status"] != "ok"} <= {"clock"}
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        status, checks = asked(fleet)
    assert status == 0
    assert checks["ledger writable"]["status"] == "ok"
    for subject in (
        "token",
        "token login",
        "token [ca] key signature",
        "profile ota-connect",
        "[tls] certificate",
    ):
        assert checks[subject]["status"] == "ok"


def test_it_speaks_to_people_too(fleet: Fleet) -> None:
    done = fleet.run("doctor")
    assert done.returncode == 0
    assert re.search(
        r"^ok +token login: the token accepted the PIN \(from file\)$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^ok +profile ota-connect: OpenSSL accepts devices", done.stdout, re.MULTILINE)
    assert re.search(r"^\d+ checks: 0 failed, \d with a warning$", done.stdout, re.MULTILINE)


def wrong_module(fleet: Fleet) -> None:
    token = fleet.config.token
    assert token is not None
    fleet.edit(str(token.uri.module), "/usr/lib/no-such-module.so")


def no_module(fleet: Fleet) -> None:
    (fleet.folder / "text.so").write_text("not a library")
    token = fleet.config.token
    assert token is not None
    fleet.edit(str(token.uri.module), str(fleet.folder / "text.so"))


def open_pin(fleet: Fleet) -> None:
    (fleet.folder / "secrets/pin").chmod(0o644)


def guide_root(fleet: Fleet) -> None:
    assert make_ca(fleet, "--kind", "root-here").returncode == 0


def ended_ca(fleet: Fleet) -> None:
    fleet.edit("validity_days = 365", "validity_days = 36525")


def other_certificate(fleet: Fleet) -> None:
    FileCa.create("another").write_certificate(fleet.root_pem)


def no_certificate(fleet: Fleet) -> None:
    fleet.root_pem.unlink()


def other_tls_key(fleet: Fleet) -> None:
    fleet.edit('key = "tls/server.key"', 'key = "tls/client.key"')


def client_for_server(fleet: Fleet) -> None:
    fleet.edit('certificate = "tls/server.pem"', 'certificate = "tls/client.pem"')
    fleet.edit('key = "tls/server.key"', 'key = "tls/client.key"')


def open_tls_key(fleet: Fleet) -> None:
    (fleet.folder / "tls/server.key").chmod(0o644)


def ledger_of_the_future(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")


def no_ledger(fleet: Fleet) -> None:
    (fleet.folder / "ledger").mkdir(exist_ok=True)
    (fleet.folder / "ledger/ledger.sqlite3").write_text(
        "this is not SQLite, and it is long enough to show it"
    )


def no_place_for_a_ledger(fleet: Fleet) -> None:
    fleet.edit('path = "ledger/', 'path = "policy.toml/')


def other_key(fleet: Fleet) -> None:
    fleet.edit("object=fleet-root;id=%01", "object=no-such-key;id=%09")


def no_access(fleet: Fleet) -> None:
    fleet.edit("[access]\n", "")
    fleet.edit('policy = "policy.toml"\n', "")


def wrong_policy(fleet: Fleet) -> None:
    allow(fleet, "line", "cn:line", 'roles = ["issuer"]')


def no_admin(fleet: Fleet) -> None:
    policy = fleet.folder / "policy.toml"
    policy.write_text(policy.read_text().replace(', "admin"]', "]"))


def ended_crl(fleet: Fleet) -> None:
    OperatorCa(fleet).revoke(ends=-timedelta(hours=1))
    fleet.edit('# client_crls = ["tls/operator-ca.crl"]', 'client_crls = ["tls/operator-ca.crl"]')


def crl_of_one_ca(fleet: Fleet) -> None:
    OperatorCa(fleet).revoke()
    fleet.edit('# client_crls = ["tls/operator-ca.crl"]', 'client_crls = ["tls/operator-ca.crl"]')
    with (fleet.folder / "tls/operator-ca.pem").open("ab") as file:
        file.write(FileCa.create("another operator CA").certificate.public_bytes(Encoding.PEM))


def no_text_for_a_key(fleet: Fleet) -> None:
    (fleet.folder / "ca/checkpoint.vkey").write_bytes(b"\xff")


@pytest.mark.parametrize(
    ("break_it", "subject", "status", "said"),
    [
        (wrong_module, "token", "fail", "no-such-module.so does not exist"),
        (no_module, "token", "fail", "can't load"),
        (open_pin, "token login", "fail", "other users can read"),
        (other_key, "token [ca] key", "fail", "the token shows pkcs11:object="),
        (no_text_for_a_key, "token login", "fail", "[checkpoint] verifier_key"),
        (other_certificate, "token [ca] key", "fail", "does not verify with the public key"),
        (guide_root, "[ca] certificate", "fail", "extendedKeyUsage without clientAuth"),
        (guide_root, "profile ota-connect", "fail", "unsuitable certificate purpose"),
        (ended_ca, "profile ota-connect", "warning", "the CA expires on"),
        (no_certificate, "[ca] certificate", "fail", "No such file"),
        (other_tls_key, "[tls] certificate", "fail", "don't belong together"),
        (client_for_server, "[tls] certificate", "fail", "lacks serverAuth"),
        (open_tls_key, "file modes", "fail", "other users can read"),
        (no_access, "policy", "fail", "no [access] section"),
        (wrong_policy, "policy", "fail", "an issuer needs profiles"),
        (no_admin, "policy", "warning", "no client has the role admin"),
        (ended_crl, "[access] client_crls", "fail", "has expired"),
        (crl_of_one_ca, "[access] client_crls", "warning", "there is no CRL of CN=another operator CA"),
        (ledger_of_the_future, "ledger", "fail", "of a newer otahsm"),
        (no_place_for_a_ledger, "ledger", "fail", "policy.toml"),
        (no_ledger, "ledger", "fail", "file is not a database"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_is_wrong_is_named(
    fleet: Fleet, break_it: Callable[[Fleet], None], subject: str, status: str, said: str
) -> None:
    break_it(fleet)
    config = fleet.config
    if not subject.startswith("token"):
        config = config.model_copy(update={"token": None})  # which takes long
    checks = worst_of(check.as_dict() for check in diagnose(config, fleet.toml, datetime.now(UTC)))
    assert checks[subject]["status"] == status, checks
    assert said in checks[subject]["message"]
    assert checks[subject]["fix"]


def test_a_wrong_pin_costs_one_login_however_often_the_doctor_is_asked(faulty: FaultyToken) -> None:
    (faulty.fleet.folder / "secrets/pin").write_text("00000000")
    for _ in range(3):
        status, checks = asked(faulty.fleet)
        assert status == 4
        assert checks["token login"]["status"] == "fail"
    assert faulty.calls("login") == 1


def test_it_logs_in_once(faulty: FaultyToken) -> None:
    assert asked(faulty.fleet)[0] == 0
    assert faulty.calls("login") == 1


@pytest.mark.parametrize(
    ("fault", "subject", "said"),
    [
        ("locked", "token PIN tries", "the user PIN is locked"),
        ("final-try", "token PIN tries", "one more wrong PIN will lock it"),
        ("away", "token", "the token failed|no token matches"),
        ("no-slots", "token", "the module shows none"),
        ("C_GetSlotList=abort", "token", "crashed with status -6"),
        ("C_Sign=0x30", "token [ca] key", "DeviceError"),
        ("flip", "token [ca] key", "does not verify"),
    ],
)
def test_a_token_that_is_ill_is_told(faulty: FaultyToken, fault: str, subject: str, said: str) -> None:
    faulty.misbehave(fault)
    status, checks = asked(faulty.fleet)
    assert status == 4
    assert checks[subject]["status"] == "fail"
    assert re.search(said, checks[subject]["message"])
    assert faulty.calls("login") == (0 if "token login" not in checks or "PIN" in subject else 1)


def test_a_module_that_hangs_is_given_up(faulty: FaultyToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_TOKEN_SECONDS", 2.0)
    faulty.misbehave("C_Sign=hang")
    checks = list(diagnose(faulty.fleet.config, faulty.fleet.toml, datetime.now(UTC)))
    (hung,) = (check for check in checks if "did not respond" in check.message)
    assert hung.status == "fail"
    assert any(check.subject == "token login" and check.status == "ok" for check in checks)


def test_a_root_without_a_path_length_is_noted_and_fails_nothing(fleet: Fleet) -> None:
    def notes() -> list[Check]:
        config = fleet.config.model_copy(update={"token": None})
        checks = diagnose(config, fleet.toml, datetime.now(UTC))
        return [check for check in checks if "pathLenConstraint" in check.message]

    assert notes() == []
    external_root(fleet.folder)
    shutil.copy(fleet.folder / "root.pem", fleet.root_pem)
    (note,) = notes()
    assert (note.subject, note.status) == ("[ca] certificate", "ok")
    assert note.message.startswith(
        "note: CN=Acme Root has no pathLenConstraint, so whoever gets one signature"
    )
    assert "a new root of `otahsm ca init` or `ca rotate`" in note.message


def test_an_intermediate_without_a_path_length_is_noted_with_what_to_ask_for(fleet: Fleet) -> None:
    config = fleet.config.model_copy(update={"token": None})
    external_root(fleet.folder)
    csr = fleet.folder / "fleet-ca.csr"
    made = openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
        "/CN=Fleet CA", "-keyout", fleet.folder / "fleet-ca.key", "-out", csr,
    )  # fmt: skip
    assert made.good, made.text
    for limit, expected in (("", 1), (",pathlen:0", 0)):
        signed = fleet.folder / f"signed{expected}.pem"
        sign(
            fleet.folder,
            csr,
            signed,
            f"basicConstraints=critical,CA:TRUE{limit}",
            "keyUsage=keyCertSign,cRLSign",
        )
        fleet.root_pem.write_bytes(signed.read_bytes() + (fleet.folder / "root.pem").read_bytes())
        checks = list(diagnose(config, fleet.toml, datetime.now(UTC)))
        notes = [check for check in checks if "pathLenConstraint" in check.message]
        assert [check.status for check in notes] == ["ok"] * expected
        assert all("reissued as `otahsm ca csr` asks for it" in check.message for check in notes)


def test_a_certificate_that_is_about_to_end_is_warned_of(fleet: Fleet) -> None:
    later = datetime(2036, 11, 1, tzinfo=UTC)
    checks = list(diagnose(fleet.config.model_copy(update={"token": None}), fleet.toml, later))
    ending = [check for check in checks if check.status == "warning" and " expires on 2036-" in check.message]
    assert {check.subject for check in ending} >= {"[tls] certificate", "[client] certificate"}


def test_a_clock_that_is_behind_the_ledger_is_told(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        assert fleet.run("device", "issue", "--count", "1").returncode == 0
    config = fleet.config.model_copy(update={"token": None})
    for now, status in ((datetime.now(UTC), []), (datetime.now(UTC) - timedelta(hours=1), ["fail"])):
        checks = [
            check for check in diagnose(config, fleet.toml, now) if "newest serial number" in check.message
        ]
        assert [check.status for check in checks] == status


def test_a_guard_directory_that_can_not_be_is_told_with_exit_code_4(fleet: Fleet) -> None:
    (fleet.folder / "file").touch()
    fleet.edit('guard_dir = "state/login"', 'guard_dir = "file/login"')
    status, checks = asked(fleet)
    assert status == 4
    assert "can't write to" in checks["guard_dir 1"]["message"]
