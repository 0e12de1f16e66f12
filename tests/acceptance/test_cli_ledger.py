"""`otahsm ledger` as its users type it, on both kinds of database."""

from __future__ import annotations

import asyncio
import calendar
import csv
import io
import json
import os
import re
import sqlite3
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otahsm.ledger import Accepted, BatchTerms, Intent
from otahsm.pki import SerialNumber, make_serial

from support.devices import issue_all, new_requests
from support.harness import Fleet, RunningDaemon, running
from support.homes import Home, PostgresHome, SqliteHome, ledger_in
from support.intents import intent, told
from support.ledger_reader import certificates
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


def ledger_section(home: Home) -> str:
    config = home.config
    if config.url is None:
        return f'[ledger]\npath = "{config.path}"\n\n'
    return f'[ledger]\nurl = "{config.url}"\npassword_file = "{config.password_file}"\n\n'


async def issue(daemon: RunningDaemon, count: int) -> list[str]:
    async with daemon.client() as client:
        issued, refused = await issue_all(client, new_requests(count))
    assert not refused
    return [item.device_id for item in issued]


def microseconds(text: str) -> int | None:
    """Read RFC 3339 without what otahsm writes it with."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{6}))?Z", text)
    assert match, text
    seconds = time.strptime(f"{match[1]} +0000", "%Y-%m-%dT%H:%M:%S %z")
    return calendar.timegm(seconds) * 1_000_000 + int(match[2] or 0)


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


def intended(device: str, seconds_ago: float) -> Intent:
    milliseconds = int(1000 * (time.time() - seconds_ago))
    serial = make_serial(b"\x7f" + os.urandom(13), milliseconds)
    return intent(device)._replace(serial=serial, intended_at=1000 * milliseconds)


async def leave(home: Home, *, void: list[Intent], opened: list[Intent]) -> None:
    """Write a ledger and leave it as a daemon that is killed does."""
    ledger = ledger_in(home)
    await ledger.open()
    for answer in await ledger.journal(void) if void else []:
        assert isinstance(answer, Accepted)
        await ledger.void([answer.intent_id], "the token was away")
    for answer in await ledger.journal([intended("issued", 50)]):
        assert isinstance(answer, Accepted)
        await ledger.record({answer.intent_id: b"x"})
    if opened:
        await ledger.journal(opened)
    await ledger.close()


async def test_reconcile_shows_every_serial_that_was_intended_and_never_released(
    home: Home, tmp_path: Path
) -> None:
    void = [intended("void-1", 400), intended("void-2", 300)]
    opened = [intended("open-1", 200), intended("open-2", 1)]
    await leave(home, void=void, opened=opened)
    (tmp_path / "otahsm.toml").write_text(ledger_section(home))
    place = Fleet(tmp_path)
    done = place.run("ledger", "reconcile", "--format", "csv")
    assert done.returncode == 1  # open-1 is open for longer than a signature takes
    assert re.search(r"2 open, 2 void; one has been open for 20\d s", done.stderr)
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [SerialNumber.from_hex(line["serial"]) for line in lines] == [
        item.serial for item in (*opened, *void)
    ]
    assert [line["device_id"] for line in lines] == ["open-1", "open-2", "void-1", "void-2"]
    assert [line["void_reason"] for line in lines] == ["", "", *["the token was away"] * 2]
    assert {line["client"] for line in lines} == {"cn:test"}
    assert [microseconds(line["intended_at"]) for line in lines] == [
        item.intended_at for item in (*opened, *void)
    ]
    as_json = place.run("ledger", "reconcile", "--format", "jsonl", "--open-seconds", "100000")
    assert as_json.returncode == 0
    assert [json.loads(line)["serial"] for line in as_json.stdout.splitlines()] == [
        line["serial"] for line in lines
    ]
    text = place.run("ledger", "reconcile").stdout
    assert all(line["serial"] in text for line in lines)
    assert "the token was away" in text
    assert "issued" not in text.replace("intended", "")
    assert await ledger_in_again(home) == 2  # nothing was changed: they were still open


async def ledger_in_again(home: Home) -> int:
    ledger = ledger_in(home)
    voided = await ledger.open()
    await ledger.close()
    return voided


async def test_reconcile_names_the_batch(home: Home, tmp_path: Path) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    ordered = await ledger.create_batch(BatchTerms("cameras", "p", 5, "", None, ()), "cn:test", told)
    (answer,) = await ledger.journal([intended("camera", 1)._replace(batch_id=ordered.result.id)])
    assert isinstance(answer, Accepted)
    await ledger.close()
    (tmp_path / "otahsm.toml").write_text(ledger_section(home))
    done = Fleet(tmp_path).run("ledger", "reconcile", "--format", "jsonl")
    assert json.loads(done.stdout)["batch"] == "cameras"


async def test_reconcile_is_content_when_nothing_is_open(home: Home, tmp_path: Path) -> None:
    await leave(home, void=[intended("void", 400)], opened=[])
    (tmp_path / "otahsm.toml").write_text(ledger_section(home))
    done = Fleet(tmp_path).run("ledger", "reconcile", "--format", "jsonl")
    assert (done.returncode, done.stderr) == (0, "0 open, 1 void\n")
    assert len(done.stdout.splitlines()) == 1


async def test_reconcile_shows_only_what_is_new_if_asked(home: Home, tmp_path: Path) -> None:
    await leave(home, void=[intended("old", 4 * 86_400), intended("new", 400)], opened=[])
    (tmp_path / "otahsm.toml").write_text(ledger_section(home))
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 86_400))
    done = Fleet(tmp_path).run("ledger", "reconcile", "--format", "jsonl", "--after", since)
    assert [json.loads(line)["device_id"] for line in done.stdout.splitlines()] == ["new"]


@pytest.mark.parametrize("command", [("reconcile",), ("backup", "--output", "b")])
def test_a_ledger_that_is_not_there_is_said(fleet: Fleet, command: tuple[str, ...]) -> None:
    (fleet.folder / "ledger/ledger.sqlite3").unlink()
    done = fleet.run("ledger", *command)
    assert done.returncode == 2
    assert "is not a readable ledger" in done.stderr
    assert not (fleet.folder / "b").exists()
    assert not (fleet.folder / "ledger/ledger.sqlite3").exists()


async def test_a_backup_made_while_issuing_is_restored_and_replays_what_was_released_before(
    daemon: RunningDaemon,
) -> None:
    fleet = daemon.fleet
    requests = new_requests(3000)
    released: dict[str, bytes] = {}

    async def line() -> None:
        async with daemon.client() as client:
            async for result in client.issuance.issue(requests):
                released[result.device_id] = result.chain[0]  # type: ignore[union-attr]

    issuing = asyncio.create_task(line())
    while len(released) < 300:
        await asyncio.sleep(0)
    before = dict(released)
    done = await asyncio.to_thread(fleet.run, "ledger", "backup", "--output", "copy.sqlite3")
    assert not issuing.done() or len(before) < 3000
    await issuing
    assert done.returncode == 0, done.stderr
    assert "complete and checked" in done.stdout
    copy = fleet.folder / "copy.sqlite3"
    assert copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    refused = fleet.run("ledger", "restore", "--from", "copy.sqlite3")
    assert refused.returncode == 2
    assert "another daemon holds the ledger" in refused.stderr
    assert daemon.stop() == 0
    refused = fleet.run("ledger", "restore", "--from", "copy.sqlite3")
    assert refused.returncode == 2
    assert "exists; nothing was changed" in refused.stderr
    (fleet.folder / "ledger").rename(fleet.folder / "lost")
    done = fleet.run("ledger", "restore", "--from", "copy.sqlite3")
    assert done.returncode == 0, done.stderr
    assert "a second certificate" in done.stderr
    restored = certificates(fleet)
    assert before.items() <= restored.items() <= released.items()
    with running(fleet) as again:
        again.wait_for("health.changed", serving=True)
        async with again.client() as client:
            issued, _ = await issue_all(client, [item for item in requests if item.device_id in before])
        assert {item.device_id: item.chain[0] for item in issued} == before
        assert all(item.replayed for item in issued)


def test_a_backup_that_is_damaged_is_not_restored(daemon: RunningDaemon) -> None:
    fleet = daemon.fleet
    asyncio.run(issue(daemon, 64))
    assert fleet.run("ledger", "backup", "--output", "copy").returncode == 0
    assert daemon.stop() == 0
    (fleet.folder / "ledger").rename(fleet.folder / "lost")
    whole = (fleet.folder / "copy").read_bytes()
    (fleet.folder / "copy").write_bytes(whole[: len(whole) // 2])
    done = fleet.run("ledger", "restore", "--from", "copy")
    assert done.returncode == 2
    assert "is not a readable ledger" in done.stderr
    assert [path.name for path in (fleet.folder / "ledger").iterdir()] == ["ledger.sqlite3.lock"]


def test_a_ledger_in_postgresql_is_not_ours_to_back_up(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    (tmp_path / "otahsm.toml").write_text(ledger_section(PostgresHome(postgres_server)))
    for command in (("backup", "--output", "b"), ("restore", "--from", "b")):
        done = Fleet(tmp_path).run("ledger", *command)
        assert done.returncode == 2
        assert "pg_dump" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["otahsm.toml"]
