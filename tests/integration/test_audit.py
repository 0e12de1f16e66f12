"""The audit trail: what was decided and done is there, in order, counted, and can't be changed unseen."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from otahsm.access import Denied
from otahsm.authority import Caller, NewBatch, Scheme, assemble
from otahsm.authority.spool_reader import SpoolReader
from otahsm.client import AuditEvent, AuditQuery, Client, IssuedCertificate
from otahsm.errors import LedgerUnavailableError
from otahsm.ledger import AuditEvent as LoggedEvent
from otahsm.ledger import EventFilter, LedgerReader
from otahsm.system.clock import utc_now
from otahsm.system.spool import AT_ONCE, CEREMONY, NotAnEvent, SpooledEvent, read, set_aside, write
from otahsm.transparency.audit import AuditLog, EventName

from support.devices import new_request
from support.harness import READY_SECONDS, Fleet, RunningDaemon, eventually, running
from support.homes import Home, ledger_in


async def trail(daemon: RunningDaemon, query: AuditQuery | None = None) -> list[AuditEvent]:
    async with Client(daemon.address, daemon.fleet.tls, patience=10) as client:
        return [event async for event in client.access.events(query or AuditQuery())]


async def until(daemon: RunningDaemon, name: str, count: int = 1) -> list[AuditEvent]:
    """Wait until there are so many events of a name."""
    async with asyncio.timeout(READY_SECONDS):
        while len(found := await trail(daemon, AuditQuery(name))) < count:
            await asyncio.sleep(0.1)
    return found


async def test_a_batch_that_was_created_is_told_even_if_nothing_can_be_read_afterwards(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    authority = assemble(
        fleet.config, lambda *_: None, clock=utc_now, log_event=lambda event, _: told.append(event)
    )
    await authority.life.start()
    try:
        await authority.life.wait_until_serving()

        def fail(*_: object) -> None:
            raise LedgerUnavailableError("the ledger can't be read")

        monkeypatch.setattr(LedgerReader, "batch", fail)
        new = NewBatch("b", "", 5, Scheme("uuid4"), None, ())
        with pytest.raises(LedgerUnavailableError):
            await authority.create_batch(Caller("cn:quickstart", bytes(32)), new)
    finally:
        await authority.life.close(30)
    assert "batch.created" in told


async def test_a_day_of_a_daemon_is_told(fleet: Fleet) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)
        logins = await until(daemon, "token.login", 3)  # the quickstart's, and two signers'
        assert all(event.client.startswith("host:") for event in logins)
        async with Client(daemon.address, fleet.tls, patience=10) as client:
            await client.access.deny("cn:line-3", "stolen")
            await client.access.allow("cn:line-3")
        names = [event.name for event in await trail(daemon)]
        assert daemon.stop() == 0
    assert {"daemon.started", "access.allowed", "client.cut_off", "client.let_in"} <= set(names)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        events = await trail(daemon)
    assert [event.id for event in events] == sorted({event.id for event in events})
    assert "daemon.stopped" in [event.name for event in events]
    pin = (fleet.folder / "secrets/pin").read_text().strip()
    assert pin not in "".join(map(str, events))
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as ledger:
        (logged,) = ledger.execute("SELECT count(*) FROM leaves WHERE kind = 4").fetchone()
        (written,) = ledger.execute("SELECT count(*) FROM events").fetchone()
        (waiting,) = ledger.execute("SELECT count(*) FROM unlogged WHERE kind = 4").fetchone()
    assert logged + waiting == written >= len(events)
    verified = fleet.run("ledger", "verify")
    assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET client = 'cn:nobody' WHERE id = 1", "leaf"),
        ("UPDATE events SET details = '{}' WHERE id = 1", "leaf"),
        ("UPDATE events SET occurrences = occurrences + 1 WHERE id = 1", "leaf"),
        ("DELETE FROM events WHERE id = 1", "the event 1"),
        (
            "INSERT INTO events SELECT 99, happened_at, name, client, 1, details FROM events WHERE id = 1",
            "event 99: the event 99 has no leaf",
        ),
    ],
)
async def test_an_event_that_is_changed_removed_or_added_in_the_database_is_found(
    fleet: Fleet, statement: str, said: str
) -> None:
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)
        await until(daemon, "daemon.started")
        assert daemon.stop() == 0
    assert fleet.run("ledger", "verify").returncode == 0
    with closing(sqlite3.connect(fleet.folder / "ledger/ledger.sqlite3")) as ledger, ledger:
        assert ledger.execute(statement).rowcount == 1
    verified = fleet.run("ledger", "verify")
    assert verified.returncode != 0
    assert said in verified.stdout + verified.stderr


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
    "no-client": json.dumps(GOOD | {"client": ""}).encode(),
    "a-long-name": json.dumps(GOOD | {"name": "n" * 65}).encode(),
    "a-long-client": json.dumps(GOOD | {"client": "c" * 257}).encode(),
    "a-long-detail": json.dumps(GOOD | {"details": {"n": "v" * 4097}}).encode(),
    "many-details": json.dumps(GOOD | {"details": {str(n): "v" for n in range(65)}}).encode(),
    "nul": json.dumps(GOOD | {"details": {"n": "a\0b"}}).encode(),
    "half-a-character": json.dumps(GOOD | {"client": "\ud800"}).encode(),
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


async def test_an_event_whose_answer_was_lost_is_written_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    write_events = ledger.write_events
    lost: list[Sequence[LoggedEvent]] = []

    async def lose_the_first_answer(events: Sequence[LoggedEvent]) -> None:
        await write_events(events)
        if not lost:
            lost.append(events)
            raise LedgerUnavailableError("the connection broke")

    monkeypatch.setattr(ledger, "write_events", lose_the_first_answer)
    audit = AuditLog(ledger, lambda *_: None, utc_now)
    audit.note(EventName.DAEMON_STARTED, "daemon", {})
    await audit.write()
    await ledger.close()
    assert lost
    reader = LedgerReader(home.config)
    assert [event.name for event in reader.events(EventFilter(), 0, 10).events] == ["daemon.started"]
    reader.close()


async def written(home: Home, work: Callable[[AuditLog], None]) -> list[LoggedEvent]:
    """Have an audit trail take things down; return what is in the ledger when it is closed."""
    ledger = ledger_in(home)
    await ledger.open()
    audit = AuditLog(ledger, lambda *_: None, utc_now)
    work(audit)
    await audit.close()
    await ledger.close()
    reader = LedgerReader(home.config)
    events: list[LoggedEvent] = []
    after, at_end = 0, False
    while not at_end:
        page = reader.events(EventFilter(), after, 1000)
        events += page.events
        after, at_end = page.next_after, page.at_end
    reader.close()
    return events


async def test_what_happens_a_million_times_is_two_events(home: Home) -> None:
    def flood(audit: AuditLog) -> None:
        for number in range(100_000):
            audit.count(EventName.ACCESS_DENIED, "cn:a", {"call": "/x"}, message=f"number {number}")
            audit.count(EventName.ACCESS_DENIED, f"cn:{number % 3}", {"call": "/y"})

    events = await written(home, flood)
    assert [(event.client, event.occurrences) for event in events] == [
        ("cn:a", 1),
        ("cn:0", 1),
        ("cn:1", 1),
        ("cn:2", 1),
        ("cn:a", 99_999),
        ("cn:0", 33_333),
        ("cn:1", 33_332),
        ("cn:2", 33_332),
    ]
    assert json.loads(events[0].details) == {"call": "/x", "message": "number 0"}


async def test_a_trail_that_can_not_be_written_keeps_so_much_and_counts_the_rest(home: Home) -> None:
    def flood(audit: AuditLog) -> None:
        for number in range(25_000):
            audit.note(EventName.POLICY_REFUSED, "daemon", {"message": str(number)})

    events = await written(home, flood)
    assert len(events) == 10_001
    (lost,) = [event for event in events if event.name == "events.lost"]
    assert lost.occurrences == 15_000


async def test_what_no_database_takes_is_written_so_that_it_can_be(home: Home) -> None:
    def odd(audit: AuditLog) -> None:
        audit.note(EventName.POLICY_REFUSED, "cn:a\0b", {"message": "c\ud800\0d"})
        audit.note(EventName.POLICY_REFUSED, "cn:next", {})

    first, second = await written(home, odd)
    assert first.client == "cn:a\\x00b"
    assert json.loads(first.details) == {"message": "c\\ud800\\x00d"}
    assert second.client == "cn:next"


async def test_what_the_ledger_refuses_is_named_and_holds_up_nothing(home: Home) -> None:
    ledger = ledger_in(home)
    audit = AuditLog(ledger, lambda *_: None, utc_now)
    left = [SpooledEvent(Path(str(n)), n, "ceremony", f"cn:{n}", {}) for n in range(5)]
    bad = left[2]._replace(client="cn:\ud800")  # which no driver can encode
    with pytest.raises(LedgerUnavailableError):
        await audit.take_in([bad])  # nobody is to blame while it takes nothing
    await ledger.open()
    assert await audit.take_in([*left[:2], bad, *left[2:]]) == [bad]
    await ledger.close()
    reader = LedgerReader(home.config)
    assert [event.client for event in reader.events(EventFilter(), 0, 10).events] == [
        item.client for item in left
    ]
    reader.close()


class SlowLedger:
    """Writes when it is told to, and then whoever stopped waiting, as the ledger does."""

    def __init__(self) -> None:
        self.asked, self.may_write = asyncio.Event(), asyncio.Event()
        self.written: list[LoggedEvent] = []

    async def write_events(self, events: list[LoggedEvent]) -> None:
        self.asked.set()
        await asyncio.shield(self._write(events))

    async def _write(self, events: list[LoggedEvent]) -> None:
        await self.may_write.wait()
        self.written += events


async def test_what_is_being_written_when_the_daemon_ends_is_written_once() -> None:
    ledger = SlowLedger()
    audit = AuditLog(ledger, lambda *_: None, utc_now)  # type: ignore[arg-type]
    audit.note(EventName.DAEMON_STARTED, "daemon", {})
    writing = asyncio.create_task(audit.write())
    await ledger.asked.wait()
    writing.cancel()
    audit.note(EventName.DAEMON_STOPPED, "daemon", {})
    closing = asyncio.create_task(audit.close())
    await asyncio.sleep(0)
    ledger.may_write.set()
    async with asyncio.timeout(10):
        await closing
    assert [event.name for event in ledger.written] == ["daemon.started", "daemon.stopped"]


async def test_who_is_cut_off_and_why_are_written_together(home: Home) -> None:
    ledger = ledger_in(home)
    await ledger.open()

    def cut_off(changed: Denied) -> LoggedEvent:
        return LoggedEvent(1, "client.cut_off", "cn:admin", 1, changed.reason)

    def let_in(changed: Denied) -> LoggedEvent:
        return LoggedEvent(1, "client.let_in", "cn:admin", 1, changed.reason)

    denied = Denied("cn:a", "lost", "cn:admin", 1)
    assert await ledger.deny(denied, cut_off) == (denied, cut_off(denied))
    assert await ledger.deny(denied._replace(reason="other"), cut_off) == (denied, None)
    reader = LedgerReader(home.config)
    assert reader.denied() == [denied]
    assert len(reader.events(EventFilter(), 0, 10).events) == 1
    assert await ledger.allow("cn:a", let_in) == (denied, let_in(denied))
    assert await ledger.allow("cn:a", let_in) == (None, None)
    assert reader.denied() == []
    events = reader.events(EventFilter(), 0, 10).events
    assert [item._replace(id=0) for item in events] == [cut_off(denied), let_in(denied)]
    reader.close()
    await ledger.close()
