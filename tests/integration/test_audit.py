"""The audit trail: what was decided and done is there, in order, counted, and can't be changed unseen."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from otahsm.access import Denied
from otahsm.authority import Caller, NewBatch, Scheme, assemble
from otahsm.client import Client, IssuedCertificate
from otahsm.errors import LedgerUnavailableError
from otahsm.ledger import AuditEvent as LoggedEvent
from otahsm.ledger import EventFilter, LedgerReader
from otahsm.system.clock import Clock, from_microseconds, utc_now
from otahsm.system.spool import SpooledEvent
from otahsm.transparency import audit as audit_module
from otahsm.transparency.audit import AuditLog, EventName

from support.acts import by
from support.audit_trail import trail, until
from support.devices import new_request
from support.harness import Fleet, running
from support.homes import Home, ledger_in


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
            await client.access.deny("cn:line-3", "stolen", allow_unknown_name=True)
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


async def written(home: Home, work: Callable[[AuditLog], None], clock: Clock = utc_now) -> list[LoggedEvent]:
    """Have an audit trail take things down; return what is in the ledger when it is closed."""
    ledger = ledger_in(home)
    await ledger.open()
    audit = AuditLog(ledger, lambda *_: None, clock)
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


async def test_what_is_counted_has_the_time_of_the_last_repetition(home: Home) -> None:
    times = iter(range(5))

    def repeat(audit: AuditLog) -> None:
        for _ in range(3):
            audit.count(EventName.ACCESS_DENIED, "cn:a", {"call": "/x"})
        audit.note(EventName.POLICY_LOADED, "daemon", {})

    events = await written(home, repeat, lambda: from_microseconds(next(times)))
    assert [(event.happened_at, event.occurrences) for event in events] == [(0, 1), (3, 1), (2, 2)]


async def test_a_trail_that_can_not_be_written_keeps_so_much_and_counts_the_rest(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audit_module._KEPT == 10_000
    monkeypatch.setattr(audit_module, "_KEPT", 1000)  # to write all of them takes a while

    def flood(audit: AuditLog) -> None:
        for number in range(2500):
            audit.note(EventName.POLICY_REFUSED, "daemon", {"message": str(number)})

    events = await written(home, flood)
    assert len(events) == 1001
    (lost,) = [event for event in events if event.name == "events.lost"]
    assert lost.occurrences == 1500


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
        details = json.dumps({"reason": changed.reason, "subject": changed.subject})
        return LoggedEvent(1, "client.cut_off", "cn:admin", 1, details)

    def let_in(changed: Denied) -> LoggedEvent:
        return LoggedEvent(1, "client.let_in", "cn:admin", 1, changed.reason)

    denied = Denied("cn:a", "lost", "cn:admin", 1)
    assert await ledger.acts.deny(denied, by(), cut_off) == (denied, cut_off(denied))
    assert await ledger.acts.deny(denied._replace(reason="other"), by(), cut_off) == (denied, None)
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


async def test_a_denial_that_somebody_wrote_into_the_database_keeps_none_from_being_written(
    home: Home,
) -> None:
    ledger = ledger_in(home)
    await ledger.open()

    def cut_off(changed: Denied) -> LoggedEvent:
        details = {"reason": changed.reason, "subject": changed.subject}
        return LoggedEvent(changed.at, "client.cut_off", "cn:admin", 1, json.dumps(details))

    def let_in(_: Denied) -> LoggedEvent:
        return LoggedEvent(5, "client.let_in", "cn:admin", 1, json.dumps({"subject": "cn:a"}))

    denied = Denied("cn:a", "lost", "cn:admin", 7)
    forged = "INSERT INTO denied_clients VALUES ('cn:a', 'lost', 'cn:admin', 4)"
    home.change(forged)
    assert await ledger.acts.deny(denied, by(), cut_off) == (denied, cut_off(denied))
    assert await ledger.acts.deny(denied._replace(at=8), by(), cut_off) == (denied, None)
    await ledger.allow("cn:a", let_in)
    for event in (cut_off(denied._replace(at=4)), None):  # an event of nobody's, or none
        if event is not None:
            home.change(
                "INSERT INTO events (id, happened_at, name, client, occurrences, details)"
                f" VALUES (99, 4, '{event.name}', '{event.client}', 1, '{event.details}')"
            )
        home.change(forged)
        assert (await ledger.acts.deny(denied, by(), cut_off)).event is not None
        home.change("DELETE FROM events WHERE id = 99")
        await ledger.allow("cn:a", let_in)
    home.change("INSERT INTO denied_clients VALUES ('cn:a', 'lost', 'cn:admin', 7)")  # as it was denied once
    assert (await ledger.acts.deny(denied, by(), cut_off)).event is not None
    await ledger.close()
