"""What processes without a ledger leave for the audit log is recorded once, whatever else lies there."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import pytest

from otahsm.authority.spool_reader import SpoolReader
from otahsm.client import AuditQuery
from otahsm.ledger import EventFilter, LedgerReader
from otahsm.system.clock import utc_now
from otahsm.system.spool import AT_ONCE, CEREMONY, NotAnEvent, SpooledEvent, read, set_aside, write
from otahsm.transparency.audit import AuditLog

from support.audit_trail import trail, until
from support.harness import READY_SECONDS, Fleet, eventually, running
from support.homes import Home, PostgresHome, ledger_in
from support.postgres import PostgresServer


async def test_a_ceremony_beside_the_daemon_gets_into_the_trail(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        done = fleet.run("ca", "prove-possession", "a-code", "-o", str(fleet.folder / "proof.pem"))
        assert done.returncode == 0, done.stderr
        (event,) = await until(daemon, "ceremony")
        details = json.loads(event.details)
        assert details["ceremony"] == "ca prove-possession"
        assert (fleet.folder / "ca/ceremonies" / details["record"]).exists()
        shown = fleet.run("audit", "--event", "ceremony")
        assert "ca prove-possession" in shown.stdout
        guard = fleet.config.token
        assert guard is not None
        eventually(lambda: list(read(guard.guard_dir)) == [], "what was taken in is still there")


GOOD = {"at": 1, "name": "token.login", "client": "host:a", "details": {"n": "1"}}
NO_EVENTS: dict[str, bytes] = {
    "infinity": json.dumps(GOOD | {"at": float("inf")}).encode(),
    "not-a-number": json.dumps(GOOD | {"at": float("nan")}).encode(),
    "a-fraction": json.dumps(GOOD | {"at": 1.5}).encode(),
    "true": json.dumps(GOOD | {"at": True}).encode(),
    "before-1970": json.dumps(GOOD | {"at": -1}).encode(),
    "after-9999": json.dumps(GOOD | {"at": 253_402_300_800_000_000}).encode(),
    "huge": b'{"at": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 60_000,
    "deep-details": b'{"at": 1, "name": "n", "client": "c", "details": ' + b'{"a":' * 12_000,
    "empty": b"",
    "no-json": b"no event",
    "no-utf-8": b'"\xff"',
    "a-list": b"[]",
    "no-details": json.dumps(GOOD | {"details": None}).encode(),
    "a-detail-that-is-no-text": json.dumps(GOOD | {"details": {"n": [1]}}).encode(),
    "a-name-that-is-no-text": json.dumps(GOOD | {"name": 1}).encode(),
    "an-event-of-the-daemons": json.dumps(GOOD | {"name": "client.let_in"}).encode(),
    "a-long-name": json.dumps(GOOD | {"name": "n" * 65}).encode(),
    "a-long-detail": json.dumps(GOOD | {"details": {"n": "v" * 4097}}).encode(),
    "many-details": json.dumps(GOOD | {"details": {str(n): "v" for n in range(65)}}).encode(),
    "nul": json.dumps(GOOD | {"details": {"n": "a\0b"}}).encode(),
    "half-a-character": json.dumps(GOOD | {"details": {"n": "\ud800"}}).encode(),
    "large": json.dumps(GOOD).encode() + b" " * 65_536,
}


def leave_what_is_no_event(folder: Path) -> set[str]:
    """Leave files that are no events, and what are no files at all; return their names."""
    for name, content in NO_EVENTS.items():
        (folder / f"0-{name}.json").write_bytes(content)
    os.mkfifo(folder / "0-fifo.json")
    (folder / "0-folder.json").mkdir()
    (folder / "0-link.json").symlink_to(folder.parent / "login.lock")
    (folder / "0-loop.json").symlink_to("0-loop.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "0-s.json"))
    return {path.name for path in folder.glob("0-*.json")}


def test_what_is_left_is_read_in_order_and_what_is_no_event_is_told_from_it(tmp_path: Path) -> None:
    write(tmp_path, CEREMONY, {"n": "1"})
    write(tmp_path, CEREMONY, {"n": "2"})
    folder = tmp_path / "events"
    (folder / "login.lock").touch()
    names = leave_what_is_no_event(folder)
    (folder / ".half.json").write_text("{")
    found = read(tmp_path)
    assert {item.path.name for item in found if isinstance(item, NotAnEvent)} == names
    assert [item.details["n"] for item in found if isinstance(item, SpooledEvent)] == ["1", "2"]
    assert len(found) == len(names) + 2
    assert read(tmp_path / "nowhere") == []


def test_whatever_a_process_tells_of_itself_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["otahsm", "a\udcff\0" + "b" * 10_000])
    write(tmp_path, CEREMONY, {"record": "\ud800"})
    (event,) = read(tmp_path)
    assert isinstance(event, SpooledEvent)
    assert event.details["record"] == "\\ud800"
    assert event.details["command"].startswith("otahsm a\\udcff\\x00bbb")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_an_event_is_that_of_the_files_owner_whatever_it_says(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    for name, user in (("1", pwd.getpwnam("nobody").pw_uid), ("2", 12_345)):
        path = tmp_path / f"events/{name}.json"
        path.write_text(json.dumps(GOOD | {"client": "cn:boss"}))
        os.chown(path, user, user)
    found = [item.client for item in read(tmp_path) if isinstance(item, SpooledEvent)]
    assert found == ["host:nobody", "host:12345"]


def test_nothing_is_moved_to_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "events/unreadable").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "events/1.json").write_text("{")
    with pytest.raises(OSError, match="unreadable"):
        set_aside(tmp_path / "events/1.json")
    assert (tmp_path / "events/1.json").exists()


async def test_what_is_no_event_is_moved_aside_loudly_and_logins_go_on_being_audited(fleet: Fleet) -> None:
    token = fleet.config.token
    assert token is not None
    folder = token.guard_dir / "events"
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        names = leave_what_is_no_event(folder)
        write(token.guard_dir, CEREMONY, {"n": "behind them"})
        events = await until(daemon, "spool.unreadable", len(names))
        assert {Path(json.loads(event.details)["file"]).name for event in events} == names
        (ceremony,) = await until(daemon, "ceremony")
        assert json.loads(ceremony.details)["n"] == "behind them"
        told = daemon.wait_for("spool.unreadable", count=len(names))
        assert all(Path(item["moved_to"]).parent == folder / "unreadable" for item in told)
        eventually(lambda: not list(folder.glob("*.json")), "something was not moved aside")
        assert {path.name for path in (folder / "unreadable").iterdir()} == names
        assert daemon.stop() == 0
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        write(token.guard_dir, CEREMONY, {"n": "after a restart"})
        ceremonies = await until(daemon, "ceremony", 2)
        assert json.loads(ceremonies[1].details)["n"] == "after a restart"
        assert len(await until(daemon, "spool.unreadable", len(names))) == len(names)
        assert not [item for item in daemon.events if item["event"] == "job.failed"]


async def test_however_much_was_left_is_taken_in_without_a_rest_in_order_and_once(
    home: Home, tmp_path: Path
) -> None:
    count = 2 * AT_ONCE + 1
    (tmp_path / "events").mkdir()
    for n in range(count):
        (tmp_path / f"events/{10**18 + n}-1.json").write_text(json.dumps(GOOD | {"at": n}))
    ledger = ledger_in(home)
    await ledger.open()
    reader = SpoolReader({tmp_path: True}, AuditLog(ledger, lambda *_: None, utc_now))
    assert [await reader.run_once() for _ in range(4)] == [0.0, 0.0, None, None]
    await ledger.close()
    assert not list((tmp_path / "events").iterdir())
    rows = LedgerReader(home.config)
    assert [event.happened_at for event in rows.events(EventFilter(), 0, 1000).events] == list(range(count))
    rows.close()


async def test_where_nothing_can_be_moved_aside_that_is_told_and_nothing_is_written_twice(
    fleet: Fleet,
) -> None:
    token = fleet.config.token
    assert token is not None
    folder = token.guard_dir / "events"
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        await until(daemon, "token.login", 3)
        (folder / "unreadable").write_text("in the way")
        (folder / "1.json").write_text("{")
        (waiting,) = daemon.wait_for("job.waiting", job="spool")
        assert "unreadable" in waiting["message"]
        write(token.guard_dir, CEREMONY, {"n": "behind it"})
        await until(daemon, "ceremony")
        (folder / "unreadable").unlink()
        daemon.wait_for("job.recovered", job="spool")
        assert [path.name for path in (folder / "unreadable").iterdir()] == ["1.json"]
        assert len(await trail(daemon, AuditQuery("spool.unreadable"))) == 1
        assert len(await trail(daemon, AuditQuery("ceremony"))) == 1


# A daemon that is killed when it has written events of other processes, and has not removed their files.
_KILLED_BEFORE_IT_REMOVES: Final = """
import os, runpy, signal, sys
from otahsm.authority import spool_reader

async def die(paths, work):
    if paths:
        os.kill(os.getpid(), signal.SIGKILL)
    return []

spool_reader._each = die
sys.argv = ["otahsm", "serve"]
runpy.run_module("otahsm", run_name="__main__")
"""


async def test_what_was_left_is_written_once_also_if_the_daemon_is_killed_before_it_removes_it(
    fleet: Fleet,
) -> None:
    token = fleet.config.token
    assert token is not None
    write(token.guard_dir, CEREMONY, {"n": "1"})
    with running(fleet, within=(sys.executable, "-P", "-c", _KILLED_BEFORE_IT_REMOVES)) as daemon:
        assert daemon.process.wait(READY_SECONDS) == -signal.SIGKILL
    folder = token.guard_dir / "events"
    assert list(folder.glob("*.json"))
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        write(token.guard_dir, CEREMONY, {"n": "2"})
        await until(daemon, "ceremony", 2)
        eventually(lambda: not list(folder.glob("*.json")), "something was not removed")
        events = await trail(daemon, AuditQuery())
        assert [json.loads(item.details)["n"] for item in events if item.name == "ceremony"] == ["1", "2"]
        assert len({(item.name, item.at, item.details) for item in events}) == len(events)
        assert daemon.stop() == 0


async def test_two_daemons_that_share_a_folder_and_a_ledger_write_an_event_once(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    home = PostgresHome(postgres_server)
    write(tmp_path, CEREMONY, {"n": "1"})
    ledgers = [ledger_in(home), ledger_in(home)]
    for ledger in ledgers:
        await ledger.open()
    one, other = (
        SpoolReader({tmp_path: True}, AuditLog(ledger, lambda *_: None, utc_now)) for ledger in ledgers
    )
    with postgres_server.connect(home.url.rpartition("/")[2]) as connection, connection.transaction():
        connection.execute("LOCK TABLE unlogged IN EXCLUSIVE MODE")  # the last that an event needs
        first = asyncio.create_task(one.run_once())
        async with asyncio.timeout(READY_SECONDS):
            while not waiting(home):
                await asyncio.sleep(0.05)
            second = asyncio.create_task(other.run_once())
            while not second.done() and waiting(home) < 2:
                await asyncio.sleep(0.05)
    await asyncio.gather(first, second)
    assert home.read("SELECT name FROM events") == [(CEREMONY,)]
    write(tmp_path, CEREMONY, {"n": "2"})
    await other.run_once()
    assert len(home.read("SELECT name FROM events")) == 2, "the folder is still reserved"
    for ledger in ledgers:
        await ledger.close()


def waiting(home: PostgresHome) -> int:
    """Return the number of connections that wait for a lock."""
    ((count,),) = home.read(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(count)
