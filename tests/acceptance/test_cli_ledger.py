"""`otahsm ledger` as its users type it, on both kinds of database."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.harness import Fleet, running
from support.homes import Home, PostgresHome, SqliteHome
from support.ledger_commands import issue, ledger_section, microseconds
from support.postgres import PostgresServer
from support.programs import openssl

_COLUMNS = (
    "serial, device_id, profile, client, client_certificate_sha256, request_id, spki_sha256, tbs_sha256,"
    " not_before, not_after, intended_at, recorded_at, voided_at, void_reason, der"
)
_ROWS = f"SELECT {_COLUMNS} FROM intents LEFT JOIN certificates ON intent_id = id ORDER BY serial"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def office(
    request: pytest.FixtureRequest,
    make_fleet: Callable[[], Fleet],
    postgres_server: PostgresServer,
) -> Iterator[tuple[Fleet, Home]]:
    """A fleet whose daemon runs and has issued 40 certificates, and voided one intent; and its ledger."""
    fleet = make_fleet()
    place = fleet.folder / "ledger"
    home: Home = SqliteHome(place) if request.param == "sqlite" else PostgresHome(postgres_server)
    toml = re.sub(r"\[ledger\]\n[^\[]*", ledger_section(home), fleet.toml.read_text())
    fleet.toml.write_text(toml)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        asyncio.run(issue(daemon, 40))
        yield fleet, home


def row_of(fields: dict[str, str]) -> tuple[Any, ...]:
    """Turn a line of an export back into a row of the ledger."""

    def seconds(name: str) -> int:
        return (microseconds(fields[name]) or 0) // 1_000_000

    return (
        bytes.fromhex(fields["serial"]).rjust(20, b"\0"),
        fields["device_id"],
        fields["profile"],
        fields["client"],
        bytes.fromhex(fields["client_certificate_sha256"]),
        fields.get("request_id", ""),
        bytes.fromhex(fields["public_key_sha256"]),
        bytes.fromhex(fields["tbs_sha256"]),
        seconds("not_before"),
        seconds("not_after"),
        microseconds(fields["intended_at"]),
        microseconds(fields.get("issued_at", "")),
        microseconds(fields.get("voided_at", "")),
        fields.get("void_reason") or None,
        b64decode(fields.get("certificate", "")) or None,
    )


def test_an_export_is_the_ledger(office: tuple[Fleet, Home], tmp_path: Path) -> None:
    fleet, home = office
    rows = home.read(_ROWS)
    assert len(rows) >= 40
    done = fleet.run("ledger", "export", "--output", str(tmp_path / "l.csv"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with (tmp_path / "l.csv").open(newline="") as file:
        assert [row_of(fields) for fields in csv.DictReader(file)] == rows
    done = fleet.run("ledger", "export", "--format", "jsonl")
    assert done.returncode == 0
    assert [row_of(json.loads(line)) for line in done.stdout.splitlines()] == rows
    printed = fleet.run("ledger", "export").stdout
    assert [row_of(fields) for fields in csv.DictReader(io.StringIO(printed))] == rows
    assert [path.name for path in tmp_path.iterdir()] == ["l.csv"]
    assert (tmp_path / "l.csv").stat().st_mode & 0o077 == 0


def test_certificates_are_exported_as_openssl_reads_them(office: tuple[Fleet, Home], tmp_path: Path) -> None:
    fleet, home = office
    done = fleet.run(
        "ledger", "export", "--format", "pem", "--status", "issued", "--output", str(tmp_path / "c")
    )
    assert done.returncode == 0, done.stderr
    listed = openssl("storeutl", "-noout", "-certs", tmp_path / "c")
    (count,) = home.read("SELECT count(*) FROM certificates")[0]
    assert f"Total found: {count}" in listed.text


def test_an_export_never_replaces_a_file_and_leaves_none_that_is_not_whole(
    office: tuple[Fleet, Home], fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "l.csv").write_text("precious")
    done = office[0].run("ledger", "export", "--output", str(tmp_path / "l.csv"))
    assert done.returncode == 2
    assert "exists; nothing was written" in done.stderr
    assert (tmp_path / "l.csv").read_text() == "precious"
    done = fleet.run("ledger", "export", "--output", str(tmp_path / "new.csv"), "--patience", "0")
    assert done.returncode == 3
    assert [path.name for path in tmp_path.iterdir()] == ["l.csv"]
    done = office[0].run("ledger", "export", "--output", str(tmp_path / "missing/l.csv"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_pages_of_a_list_follow_each_other(office: tuple[Fleet, Home]) -> None:
    fleet, home = office
    seen: list[str] = []
    token: list[str] = []
    while True:
        done = fleet.run("ledger", "list", "--limit", "15", "--json", *token)
        assert done.returncode == 0, done.stderr
        page = json.loads(done.stdout)
        seen += [fields["serial"] for fields in page["certificates"]]
        if not page["next_page_token"]:
            break
        token = ["--page-token", page["next_page_token"]]
    assert seen == [row[0].lstrip(b"\0").hex() for row in home.read(_ROWS)]
    shown = fleet.run("ledger", "list", "--limit", "15")
    assert len(shown.stdout.splitlines()) == 16
    assert f"--page-token {token[1]}" not in shown.stderr  # that was of a later page
    assert "There may be more: --page-token" in shown.stderr


def test_the_last_of_a_list_are_shown_newest_first_page_by_page(office: tuple[Fleet, Home]) -> None:
    fleet, home = office
    rows = [row[0].lstrip(b"\0").hex() for row in home.read(_ROWS)][::-1]
    shown = fleet.run("ledger", "list", "--last", "15")
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == rows[:15]
    seen: list[str] = []
    options: list[str] = ["--last", "15"]
    while options:
        done = fleet.run("ledger", "list", "--json", *options)
        assert done.returncode == 0, done.stderr
        page = json.loads(done.stdout)
        seen += [fields["serial"] for fields in page["certificates"]]
        token = page["next_page_token"]
        options = ["--last", "15", "--page-token", token] if token else []
        if len(seen) == 15:
            assert shown.stderr == f"There may be more: {' '.join(options)}\n"
    assert seen == rows


def test_a_list_shows_what_was_asked_for(office: tuple[Fleet, Home]) -> None:
    fleet, home = office
    device = home.read(_ROWS)[0][1]

    def found(*options: str) -> list[Any]:
        done = fleet.run("ledger", "list", "--limit", "1000", "--json", *options)
        assert done.returncode == 0, done.stderr
        certificates_: list[Any] = json.loads(done.stdout)["certificates"]
        return certificates_

    assert [fields["device_id"] for fields in found("--device-id", device)] == [device]
    everything = found()
    assert found("--client", "cn:quickstart", "--profile", "ota-connect", "--status", "issued") == everything
    for nothing in (
        ("--client", "cn:nobody"),
        ("--profile", "none"),
        ("--status", "void"),
        ("--after", "2999-01-01"),
        ("--before", "2001-01-01T00:00:00+02:00"),
    ):
        assert found(*nothing) == []
    assert found("--after", "2001-01-01", "--before", "2999-01-01T00:00:00Z") == everything


def test_one_certificate_is_shown_and_its_chain_written(office: tuple[Fleet, Home], tmp_path: Path) -> None:
    fleet, home = office
    serial, device, *_, der = home.read(_ROWS)[3]
    done = fleet.run("ledger", "get", device, "--output", str(tmp_path / "chain.pem"))
    assert done.returncode == 0, done.stderr
    assert serial.lstrip(b"\0").hex() in done.stdout
    assert openssl("verify", "-CAfile", fleet.root_pem, tmp_path / "chain.pem").good
    assert openssl("x509", "-in", tmp_path / "chain.pem", "-outform", "DER", "-out", tmp_path / "der").good
    assert (tmp_path / "der").read_bytes() == der
    by_serial = fleet.run("ledger", "get", "--serial", serial.hex(":").upper(), "--json")
    assert json.loads(by_serial.stdout)["device_id"] == device
    assert json.loads(by_serial.stdout)["chain"] == (tmp_path / "chain.pem").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("get", "nobody"), 1, "no certificate with device id 'nobody'"),
        (("get", "--serial", "01"), 1, "no certificate with serial number 01"),
        (("get",), 2, "either a device id or --serial"),
        (("get", "a", "--serial", "01"), 2, "either a device id or --serial"),
        (("get", "--serial", "0x"), 2, "hexadecimal"),
        (("get", "--serial", "0" * 40), 2, "hexadecimal"),
        (("get", "--serial", "1" * 41), 2, "hexadecimal"),
        (("list", "--page-token", "x"), 1, "page token is damaged"),
        (("list", "--after", "yesterday"), 2, "--after takes"),
        (("list", "--limit", "0"), 2, "--limit"),
        (("list", "--last", "0"), 2, "--last"),
        (("list", "--last", "5", "--limit", "5"), 2, "either --last or --limit"),
        (("list", "--status", "lost"), 2, "--status"),
    ],
)
def test_what_can_not_be_answered_is_said_in_a_sentence(
    office: tuple[Fleet, Home], arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = office[0].run("ledger", *arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_stats_count_every_day_profile_client_and_status(office: tuple[Fleet, Home]) -> None:
    fleet, home = office
    done = fleet.run("ledger", "stats", "--json")
    counts = json.loads(done.stdout)
    assert sum(count["certificates"] for count in counts) == len(home.read(_ROWS))
    assert {(count["profile"], count["client"], count["status"]) for count in counts} == {
        ("ota-connect", "cn:quickstart", "issued")
    }
    shown = fleet.run("ledger", "stats").stdout.splitlines()
    assert len(shown) == 1 + len(counts)
    assert counts[0]["day"] in shown[1]
