"""Events are listed page by page, in both directions, and none is missed whatever the clocks said."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event

from otahsm.ledger import AuditEvent, EventFilter, Ledger, LedgerReader
from otahsm.ledger.read import event_page
from otahsm.ledger.tree.log_entries import Kind
from otahsm.ledger.tree.pending import note_leaves
from otahsm.ledger.write import events

from support.examples import examples
from support.homes import PostgresHome, ledger_in
from support.postgres import PostgresServer

JUMP = 10**15
_numbers = count()


def walk(reader: LedgerReader, wanted: EventFilter, size: int = 7) -> list[int]:
    """Return the times of the events on all pages."""
    after, at_end = 0, False
    times: list[int] = []
    while not at_end:
        page = reader.events(wanted, after, size)
        assert len(page.events) <= size
        times += [event.happened_at for event in page.events]
        after, at_end = page.next_after, page.at_end
    return times


async def write(ledger: Ledger, times: list[int]) -> None:
    await ledger.write_events([AuditEvent(at, "a.b", f"cn:{next(_numbers)}", 1, "{}") for at in times])


async def test_events_are_found_by_name_client_and_time(ledger: Ledger, reader: LedgerReader) -> None:
    await ledger.write_events(
        [AuditEvent(n, f"{'ab'[n % 2]}.{n % 3}", f"cn:{n % 5}", 1, "{}") for n in range(300)]
    )
    expected = {
        EventFilter(): range(300),
        EventFilter("a."): range(0, 300, 2),
        EventFilter("a.1"): range(4, 300, 6),
        EventFilter("a"): [],
        EventFilter("%."): [],
        EventFilter(client="cn:3"): range(3, 300, 5),
        EventFilter(after=100, before=200): range(100, 200),
        EventFilter(after=9_000_000): [],
        EventFilter(before=0): [],
    }
    for wanted, found in expected.items():
        assert walk(reader, wanted) == list(found)
        assert walk(reader, wanted._replace(newest_first=True)) == list(found)[::-1]


async def test_who_follows_the_events_of_two_replicas_misses_none(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = PostgresHome(postgres_server)
    slow, quick = ledger_in(home), ledger_in(home)
    for ledger in (slow, quick):
        await ledger.open()
    written, may_commit = threading.Event(), threading.Event()

    def note_and_wait(connection: Connection, kind: Kind, leaves: Mapping[int, bytes]) -> None:
        note_leaves(connection, kind, leaves)
        written.set()
        may_commit.wait()

    monkeypatch.setattr(events, "note_leaves", note_and_wait)
    first = asyncio.create_task(write(slow, [1]))
    await asyncio.to_thread(written.wait)
    monkeypatch.undo()
    second = asyncio.create_task(write(quick, [2]))
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not second.done() and home.read(waits) == [(0,)]:
        await asyncio.sleep(0.01)
    reader = LedgerReader(home.config)
    page = reader.events(EventFilter(), 0, 10)
    seen = page.events
    may_commit.set()
    await asyncio.gather(first, second)
    seen += reader.events(EventFilter(), page.next_after, 10).events
    reader.close()
    for ledger in (slow, quick):
        await ledger.close()
    assert [event.happened_at for event in seen] == [1, 2]


async def test_an_event_of_a_clock_that_was_ahead_is_found(ledger: Ledger, reader: LedgerReader) -> None:
    await write(ledger, [JUMP, *range(1200)])
    wanted = EventFilter(after=1150)
    assert walk(reader, wanted, 1000) == [JUMP, *range(1150, 1200)]
    assert walk(reader, wanted._replace(newest_first=True), 1000) == [*range(1199, 1149, -1), JUMP]


async def test_the_last_events_are_those_written_last_whatever_their_time(
    ledger: Ledger, reader: LedgerReader
) -> None:
    await write(ledger, [*range(JUMP, JUMP + 50), 1, 2])
    page = reader.events(EventFilter(newest_first=True), 0, 3)
    assert [event.happened_at for event in page.events] == [2, 1, JUMP + 49]


async def test_every_event_of_a_time_is_on_one_page_however_times_are_mixed(
    ledger: Ledger, reader: LedgerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [number * 37 % 101 for number in range(80)]
    await write(ledger, times)
    monkeypatch.setattr(event_page, "_SCANNED", 7)  # so that pages end before they are full
    monkeypatch.setattr(event_page, "_LOOKED_UP", 20)  # and that more may fit than are looked up

    @given(st.none() | st.integers(0, 101), st.none() | st.integers(0, 101), st.integers(1, 9))
    @settings(max_examples=examples(100), deadline=None)
    def check(after: int | None, before: int | None, size: int) -> None:
        expected = [at for at in times if (after is None or after <= at) and (before is None or at < before)]
        wanted = EventFilter(after=after, before=before)
        assert walk(reader, wanted, size) == expected
        assert walk(reader, wanted._replace(newest_first=True), size) == expected[::-1]

    check()


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_come_from_indexes(ledger: Ledger, reader: LedgerReader, newest_first: bool) -> None:  # noqa: FBT001
    await write(ledger, list(range(500)))
    plans: list[str] = []

    @event.listens_for(reader._engine, "before_cursor_execute")
    def explain(_: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
        if statement.startswith("SELECT"):
            word = "EXPLAIN QUERY PLAN" if reader._engine.name == "sqlite" else "EXPLAIN"
            asked = cursor.connection.cursor().execute(f"{word} {statement}", parameters)
            plans.append("\n".join(step[-1] for step in asked))

    reader.events(EventFilter(after=400, newest_first=newest_first), 0, 10)
    _, looked_up, page = plans
    assert re.search(r"ix_events_time( |$)", looked_up, re.MULTILINE), looked_up
    assert re.search(r"INTEGER PRIMARY KEY|pk_events", page), page
    assert not any(re.search(r"SCAN events|Seq Scan|Bitmap|ORDER BY|Sort", plan) for plan in plans), plans
