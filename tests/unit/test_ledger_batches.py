"""Batches in the ledger, on SQLite and on PostgreSQL: never one certificate more than was ordered."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otahsm.ledger import (
    Accepted,
    Batch,
    BatchRefusal,
    BatchState,
    BatchTerms,
    Intent,
    JournalResult,
    Ledger,
    LedgerReader,
    Replay,
    database_of,
)
from otahsm.ledger.migrations import migrate
from otahsm.pki.serial import SerialNumber

from support.acts import as_done, by
from support.examples import examples
from support.homes import MAC_KEYS, Home, PostgresHome, ledger_in
from support.intents import intent, issue, told
from support.postgres import PostgresServer

NOW = 1_900_000_000


async def order(
    ledger: Ledger, count: int, name: str = "b", deadline: int | None = None, creator: str = "cn:boss"
) -> Batch:
    terms = BatchTerms(name, "p", count, "{}", deadline, ("cn:test",))
    return as_done((await ledger.acts.create_batch(terms, by(creator), told)).result)


def inside(batch: Batch, *devices: str) -> list[Intent]:
    return [intent(device)._replace(batch_id=batch.id) for device in devices]


def accepted(answers: list[JournalResult]) -> list[int]:
    return [answer.intent_id for answer in answers if isinstance(answer, Accepted)]


def taken(home: Home) -> list[tuple[int]]:
    return home.read("SELECT taken FROM batches ORDER BY id")


async def test_as_many_as_there_are_places_get_one_and_the_others_are_told(
    home: Home, ledger: Ledger
) -> None:
    batch = await order(ledger, 3)
    answers = await ledger.journal(inside(batch, "a", "b", "c", "d", "e"))
    assert len(accepted(answers)) == 3
    assert answers[3:] == [BatchRefusal(full=True, message="the batch b already has its 3 certificates")] * 2
    assert taken(home) == [(3,)]
    # Nothing is left of those that got none: they may ask outside the batch.
    assert len(accepted(await ledger.journal([intent("d"), intent("e")]))) == 2
    assert home.read("SELECT count(*) FROM intents") == [(5,)]


async def test_what_comes_to_nothing_gives_its_place_back(home: Home, ledger: Ledger) -> None:
    batch = await order(ledger, 2)
    first, second = accepted(await ledger.journal(inside(batch, "a", "b")))
    await ledger.void([first], "it was not signed")
    await ledger.record({second: b"b"})
    assert taken(home) == [(1,)]
    assert len(accepted(await ledger.journal(inside(batch, "c", "d")))) == 1


async def test_what_a_crash_left_open_gives_its_place_back(home: Home) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    batch = await order(ledger, 2)
    await ledger.journal(inside(batch, "a", "b"))
    await ledger.close()
    again = ledger_in(home)
    assert await again.open() == 2
    assert taken(home) == [(0,)]
    assert len(accepted(await again.journal(inside(batch, "a", "b")))) == 2
    await again.close()


async def test_a_certificate_that_exists_is_returned_and_takes_no_place(home: Home, ledger: Ledger) -> None:
    batch = await order(ledger, 1)
    await issue(ledger, *inside(batch, "a"))
    full, other = await order(ledger, 1, "full"), await order(ledger, 1, "other")
    await issue(ledger, *inside(full, "x"))
    await ledger.acts.close_batch("b", by(), told)
    for which in (batch, full, other):
        (answer,) = await ledger.journal(inside(which, "a"))
        assert isinstance(answer, Replay)
    assert taken(home) == [(1,), (1,), (0,)]


@pytest.mark.parametrize(("now", "given"), [(NOW - 1, 1), (NOW, 0), (NOW + 1, 0)])
async def test_nothing_is_issued_from_the_deadline_on(ledger: Ledger, now: int, given: int) -> None:
    batch = await order(ledger, 5, deadline=1_000_000 * NOW)
    answers = await ledger.journal(inside(batch, "a"), now)
    assert len(accepted(answers)) == given
    if not given:
        assert answers == [BatchRefusal(full=False, message="the deadline of the batch b has passed")]


async def test_nothing_is_issued_in_a_batch_that_is_closed(ledger: Ledger) -> None:
    batch = await order(ledger, 5)
    closed, event = await ledger.acts.close_batch("b", by(), told)
    assert event is not None
    assert isinstance(closed, BatchState)
    assert closed.batch.closed_at is not None
    assert await ledger.acts.close_batch("b", by(), told) == (closed, None)  # the first time is what counts
    assert await ledger.journal(inside(batch, "a")) == [
        BatchRefusal(full=False, message="the batch b is closed")
    ]
    assert await ledger.acts.close_batch("nothing", by(), told) == (None, None)


async def test_the_same_order_again_is_the_same_batch(ledger: Ledger) -> None:
    first = await order(ledger, 5)
    assert await order(ledger, 5, creator="cn:another") == first
    other = await order(ledger, 6)
    assert other == first  # whoever asked sees that it is another than wanted


async def test_a_renewal_in_a_batch_takes_a_place_and_gives_it_back_with_its_predecessor_restored(
    home: Home,
) -> None:
    from otahsm.ledger import Renewal  # noqa: PLC0415

    ledger = Ledger(database_of(home.config), MAC_KEYS, [bytes(20)], {"p": Renewal(10**9, 10**9)})
    await ledger.open()
    await issue(ledger, intent("a")._replace(not_after=NOW + 10))
    batch = await order(ledger, 1)
    await issue(ledger, *inside(batch, "x"))
    renewal = intent("a")._replace(not_after=NOW + 10**6, batch_id=batch.id)
    (answer,) = await ledger.journal([renewal], NOW)
    assert isinstance(answer, BatchRefusal)
    assert home.read("SELECT count(*) FROM intents WHERE superseded_at IS NOT NULL") == [(0,)]
    (answer,) = await ledger.journal([intent("a")], NOW + 10**9)
    assert isinstance(answer, Replay)
    await ledger.close()


async def test_a_batch_tells_how_far_it_is(home: Home, ledger: Ledger) -> None:
    batch = await order(ledger, 10)
    await order(ledger, 5, "later")
    wanted = inside(batch, "a", "b", "c")
    for number, item in enumerate(wanted):
        wanted[number] = item._replace(serial=SerialNumber(number + 1))
    await issue(ledger, *wanted)
    (open_one,) = accepted(await ledger.journal(inside(batch, "d")))
    reader = LedgerReader(home.config)
    first, later = reader.batches(0, 10)
    assert (first.issued, first.batch.taken, later.issued) == (3, 4, 0)
    assert first.first is not None
    assert first.last is not None
    assert (first.first.serial, first.last.serial) == (1, 3)
    assert abs(first.last.recorded_at / 1e6 - time.time()) < 60
    assert later.first is later.last is None
    assert reader.batches(first.batch.id, 10) == [later]
    assert reader.batch("later") == later
    assert reader.batch("never") is None
    assert reader.batches(0, 10, newest_first=True) == [later, first]
    assert reader.batches(0, 1, newest_first=True) == [later]
    assert reader.batches(later.batch.id, 10, newest_first=True) == [first]
    assert reader.batches(first.batch.id, 10, newest_first=True) == []
    await ledger.void([open_one], "gone")
    assert reader.batches(0, 1)[0].batch.taken == 3
    reader.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "void", "record"]), st.integers(1, 6), st.integers(0, 1)), max_size=15
)


@given(STEPS, st.integers(1, 12))
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_whatever_happens_no_batch_has_more_than_was_ordered_and_every_place_can_be_used(
    home: Home, ledger: Ledger, steps: list[tuple[str, int, int]], size: int
) -> None:
    run = str(time.time_ns())
    batches = [await order(ledger, size, f"{run}-{number}") for number in range(2)]
    open_ids: list[list[int]] = [[], []]
    recorded = [0, 0]
    asked = 0
    for what, count, which in steps:
        if what == "ask":
            devices = [f"{run}-{number}" for number in range(asked, asked + count)]
            asked += count
            got = accepted(await ledger.journal(inside(batches[which], *devices)))
            assert len(got) == min(count, size - recorded[which] - len(open_ids[which]))
            open_ids[which] += got
            continue
        ended, open_ids[which] = open_ids[which][:count], open_ids[which][count:]
        if what == "void" and ended:
            await ledger.void(ended, "drawn")
        elif ended:
            await ledger.record(dict.fromkeys(ended, b"certificate"))
            recorded[which] += len(ended)
    held = [recorded[which] + len(open_ids[which]) for which in range(2)]
    assert taken(home)[-2:] == [(count,) for count in held]
    for left in open_ids:
        if left:
            await ledger.void(left, "drawn")


async def test_two_daemons_that_race_for_the_places_of_a_batch_give_each_of_them_once(
    postgres_server: PostgresServer,
) -> None:
    home = PostgresHome(postgres_server)
    ledgers = [ledger_in(home), ledger_in(home)]
    for ledger in ledgers:
        await ledger.open()
    batches = [await order(ledgers[0], 100, name) for name in ("one", "two")]
    asked = [
        ledgers[number % 2].journal(
            inside(batches[number % 4 // 2], *(f"{number}-{each}" for each in range(25)))
        )
        for number in range(32)
    ]
    answers = [answer for batch in await asyncio.gather(*asked) for answer in batch]
    assert len(accepted(answers)) == 200
    assert taken(home) == [(100,), (100,)]
    assert home.read("SELECT batch_id, count(*) FROM intents GROUP BY 1 ORDER BY 1") == [(1, 100), (2, 100)]
    for ledger in ledgers:
        await ledger.close()


async def test_a_ledger_of_an_earlier_version_has_no_batches_and_can_get_some(home: Home) -> None:
    database = database_of(home.config)
    database.hold()
    with database.engine.begin() as connection:
        migrate(connection, "0008")
    database.close()
    home.change(
        "INSERT INTO intents (id, serial, request_id, profile, device_id, spki_sha256, tbs_sha256,"
        " issuer_key_id, not_before, not_after, client, client_certificate_sha256, intended_at, place)"
        " SELECT 1, s, 'r', 'p', 'a', s, s, s, 1, 2, 'cn:x', s, 3, 1 FROM (SELECT issuer_key_id AS s FROM"
        " crls UNION ALL SELECT cast('12345678901234567890' AS {}) ) AS rows".format(
            "bytea" if isinstance(home, PostgresHome) else "blob"
        )
    )
    ledger = Ledger(database_of(home.config), MAC_KEYS, [b"12345678901234567890"])
    await ledger.open()
    assert home.read("SELECT batch_id FROM intents") == [(None,)]
    batch = await order(ledger, 1)
    assert len(accepted(await ledger.journal(inside(batch, "b")))) == 1
    await ledger.close()
