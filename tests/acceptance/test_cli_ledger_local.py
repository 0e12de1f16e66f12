"""`otahsm ledger` where it works on the database itself: reconcile, backup and restore."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from otahsm.ledger import Accepted, BatchTerms, Intent
from otahsm.pki.serial import SerialNumber, make_serial

from support.acts import as_done, by
from support.devices import issue_all, new_requests
from support.harness import Fleet, RunningDaemon, running
from support.homes import Home, PostgresHome, ledger_in
from support.intents import intent, told
from support.ledger_commands import issue, ledger_section, microseconds
from support.ledger_reader import certificates
from support.postgres import PostgresServer


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
    change = await ledger.acts.create_batch(BatchTerms("cameras", "p", 5, "", None, ()), by("cn:test"), told)
    batch_id = as_done(change.result).id
    (answer,) = await ledger.journal([intended("camera", 1)._replace(batch_id=batch_id)])
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
    done = fleet.run("ledger", "restore", "--from", "copy.sqlite3", "--reason", "the disk failed")
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
