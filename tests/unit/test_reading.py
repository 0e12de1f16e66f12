"""Questions about the ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from otahsm.access import Below, OwnerFilter
from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerUnavailableError
from otahsm.ledger import (
    START,
    Accepted,
    BatchTerms,
    CertificateRecord,
    CountKey,
    Filter,
    Intent,
    Ledger,
    LedgerReader,
    RevocationRequest,
    Status,
)
from otahsm.ledger.db.sqlite import open_engine
from otahsm.ledger.migrations import migrate
from otahsm.ledger.read import certificate_page
from otahsm.pki.serial import SerialNumber, make_serial

from support.acts import as_done, by
from support.examples import examples
from support.homes import Home, SqliteHome, ledger_in
from support.intents import intent, told

DAY = 86_400_000
NOON = 20_000 * DAY + DAY // 2
_numbers = count()


def intent_at(milliseconds: int, device: str = "", client: str = "cn:a", profile: str = "p") -> Intent:
    """An intent of a time; nobody else's device if none is named."""
    return intent(device or f"device-{next(_numbers)}", profile=profile)._replace(
        serial=make_serial(b"\x7f" + os.urandom(13), milliseconds),
        intended_at=1000 * milliseconds,
        client=client,
    )


async def write(ledger: Ledger, status: Status, *intents: Intent) -> list[Intent]:
    """Bring intents into a status."""
    answers = await ledger.journal(intents)
    ids = [answer.intent_id for answer in answers if isinstance(answer, Accepted)]
    assert len(ids) == len(intents)
    if status in {Status.ISSUED, Status.SUPERSEDED, Status.REVOKED}:
        await ledger.record({number: b"certificate %d" % number for number in ids})
    if status is Status.SUPERSEDED:
        for item in intents:
            assert (await ledger.acts.reset(item.device_id, item.profile, by(), told)).result == item.serial
    if status is Status.REVOKED:
        targets = [
            RevocationRequest(serial=item.serial, device_id="", profile="", reason="superseded")
            for item in intents
        ]
        await ledger.acts.revoke(targets, by("cn:test"), NOON)
    if status is Status.VOID:
        await ledger.void(ids, "a test")
    return list(intents)


def octets_in(home: Home, octets: bytes) -> str:
    """Write octets as the database's SQL does."""
    return f"X'{octets.hex()}'" if isinstance(home, SqliteHome) else f"'\\x{octets.hex()}'::bytea"


def serials(entries: list[CertificateRecord]) -> list[SerialNumber]:
    return [entry.serial for entry in entries]


def walk(reader: LedgerReader, wanted: Filter = Filter(), size: int = 3) -> list[CertificateRecord]:  # noqa: B008 - a value
    return list(reader.everything(wanted, size=size))


async def test_an_entry_tells_all_that_the_ledger_knows(ledger: Ledger, reader: LedgerReader) -> None:
    (asked,) = await write(ledger, Status.ISSUED, intent_at(NOON, "a", "cn:line-3", "q"))
    found = reader.by_serial(asked.serial)
    assert found is not None
    assert found == reader.by_device("a", "q")
    assert found.recorded_at is not None
    assert found == CertificateRecord(
        asked.serial,
        Status.ISSUED,
        "a",
        "q",
        "cn:line-3",
        asked.client_certificate_sha256,
        asked.request_id,
        asked.spki_sha256,
        asked.tbs_sha256,
        1,
        2,
        1000 * NOON,
        found.recorded_at,
        None,
        None,
        b"certificate 1",
        None,
        "",
    )
    assert reader.by_serial(SerialNumber(1)) is None
    assert reader.by_device("a", "p") is None


async def test_open_and_voided_ones_are_told_apart(ledger: Ledger, reader: LedgerReader) -> None:
    (lost,) = await write(ledger, Status.VOID, intent_at(NOON, "a"))
    assert reader.by_device("a", "p") is None
    void = reader.by_serial(lost.serial)
    assert void is not None
    assert (void.status, void.void_reason, void.certificate) == (Status.VOID, "a test", None)
    assert void.voided_at is not None
    (again,) = await write(ledger, Status.OPEN, intent_at(NOON + 1, "a"))
    opened = reader.by_device("a", "p")
    assert opened is not None
    assert (opened.status, opened.recorded_at) == (Status.OPEN, None)
    assert serials(walk(reader, Filter(device_id="a"))) == [lost.serial, again.serial]
    assert serials(walk(reader, Filter(status=Status.OPEN))) == [again.serial]
    assert serials(walk(reader, Filter(status=Status.VOID))) == [lost.serial]


async def fill(ledger: Ledger) -> list[Intent]:
    """Write some of everything; return what was written, in the order of the serial numbers."""
    written: list[Intent] = []
    change = await ledger.acts.create_batch(BatchTerms("b", "p", 1000, "{}", None, ()), by("cn:a"), told)
    batch = as_done(change.result)
    for number in range(60):
        where = ("cn:a", "p") if number % 4 else ("cn:rare", "q")
        device = f"{number // 7}" if number % 5 == 4 else ""  # the same devices again and again
        status = (*Status, Status.ISSUED)[number % 6]
        if device:
            status = Status.VOID
        name = "line" if number % 7 < 4 else ""
        asked = intent_at(NOON + 7 * number, device, *where)._replace(policy_client=name)
        written += await write(
            ledger, status, asked._replace(batch_id=batch.id) if number % 3 == 0 else asked
        )
    return sorted(written)


FILTERS = st.builds(
    Filter,
    device_id=st.sampled_from(["", "", "", "0", "1", "nobody"]),
    batch=st.sampled_from(["", "", "b", "nothing"]),
    client=st.sampled_from(["", "cn:a", "cn:rare", "cn:nobody"]),
    profile=st.sampled_from(["", "p", "q"]),
    status=st.sampled_from([None, *Status]),
    after=st.none() | st.integers(NOON - 10, NOON + 430),
    before=st.none() | st.integers(NOON - 10, NOON + 430),
    newest_first=st.booleans(),
    owner=st.sampled_from(
        [
            None,
            None,
            OwnerFilter(frozenset({"line"})),
            OwnerFilter(frozenset({"line", "once"}), frozenset({"cn:rare"})),
            OwnerFilter(
                frozenset({"once"}), below=frozenset({Below("cn:", frozenset({"cn:a"}), frozenset())})
            ),
            OwnerFilter(
                frozenset({"once"}), below=frozenset({Below("cn:", frozenset(), frozenset({"cn:r"}))})
            ),
        ]
    ),
)


def is_of(entry: CertificateRecord, owner: OwnerFilter) -> bool:
    if entry.policy_client:
        return entry.policy_client in owner.names
    return entry.client in owner.identities or any(
        entry.client not in below.others and not entry.client.startswith(tuple(below.others_start))
        for below in owner.below
    )


def fits(entry: CertificateRecord, wanted: Filter) -> bool:
    milliseconds = entry.intended_at // 1000
    return (
        wanted.device_id in ("", entry.device_id)
        and wanted.client in ("", entry.client)
        and (wanted.owner is None or is_of(entry, wanted.owner))
        and wanted.batch in ("", entry.batch)
        and wanted.profile in ("", entry.profile)
        and wanted.status in (None, entry.status)
        and (wanted.after is None or wanted.after <= milliseconds)
        and (wanted.before is None or milliseconds < wanted.before)
    )


async def test_every_filter_shows_what_fits_once_in_order_and_nothing_else(
    ledger: Ledger, reader: LedgerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = await fill(ledger)
    everything = walk(reader)
    assert serials(everything) == [item.serial for item in written]
    assert {entry.status for entry in everything} == set(Status)
    monkeypatch.setattr(certificate_page, "_SCANNED", 7)  # so that pages end before they are full

    @given(FILTERS, st.integers(1, 20))
    @settings(max_examples=examples(150), deadline=None)
    def check(wanted: Filter, size: int) -> None:
        expected = [entry for entry in everything if fits(entry, wanted)]
        assert walk(reader, wanted, size) == expected[:: -1 if wanted.newest_first else 1]

    check()


@pytest.mark.parametrize("status", [Status.ISSUED, Status.OPEN])
async def test_rows_whose_serial_number_somebody_made_too_long_or_short_are_shown_and_hide_no_others(
    home: Home, ledger: Ledger, reader: LedgerReader, status: Status
) -> None:
    written = await write(ledger, status, *(intent_at(NOON + number) for number in range(6)))
    keys = [item.serial.key for item in written]
    keys[1], keys[2], keys[4] = keys[1] + b"\xab", keys[2] + bytes(200), keys[4][:-1]
    for key, item in zip(keys, written, strict=True):
        home.change(
            f"UPDATE intents SET serial = {octets_in(home, key)} WHERE device_id = '{item.device_id}'"
        )
    for size in range(1, 8):
        entries = walk(reader, Filter(status=status), size)
        assert [entry.device_id for entry in entries] == [item.device_id for item in written]
        assert [entry.serial.hex() for entry in entries] == [SerialNumber.from_key(key).hex() for key in keys]
        assert walk(reader, Filter(status=status, newest_first=True), size) == entries[::-1]
    assert reader.by_serial(written[3].serial) is not None


async def test_counts_are_those_of_the_entries(
    ledger: Ledger, reader: LedgerReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(ledger)
    renamed = intent_at(NOON + DAY + 1, client="cn:b")._replace(policy_client="renamed")
    await write(ledger, Status.ISSUED, intent_at(NOON + DAY), renamed)
    monkeypatch.setattr(certificate_page, "_SCANNED", 7)

    def counted(wanted: Filter) -> Counter[CountKey]:
        counts: Counter[CountKey] = Counter()
        after: bytes | None = START
        while after is not None:
            part, after = reader.count(wanted, after)
            counts.update(part)
        return counts

    for wanted in (Filter(), Filter(after=NOON + 50), Filter(after=NOON + 50, before=NOON + DAY)):
        entries = [entry for entry in walk(reader) if fits(entry, wanted)]
        expected = Counter(
            CountKey(
                entry.intended_at // (1000 * DAY),
                entry.profile,
                entry.client,
                entry.policy_client,
                entry.status,
            )
            for entry in entries
        )
        assert counted(wanted) == expected
    assert {group.day for group in counted(Filter())} == {20_000, 20_001}


STEPS = st.lists(st.integers(1, 5) | st.tuples(st.sampled_from(Status), st.integers(0, 50)), max_size=12)


@given(
    steps=STEPS,
    wanted=st.sampled_from([Filter(), Filter(client="cn:rare"), Filter(status=Status.ISSUED)]),
    newest_first=st.booleans(),
)
@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the ledger grows from one to the next, and that is well
def test_a_walk_shows_what_was_there_once_whatever_is_added_meanwhile(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[int | tuple[Status, int]],
    wanted: Filter,
    *,
    newest_first: bool,
) -> None:
    monkeypatch.setattr(certificate_page, "_SCANNED", 3)  # so that pages end before they are full
    wanted = wanted._replace(newest_first=newest_first)

    async def check() -> None:
        ledger, reader = ledger_in(home), LedgerReader(home.config)
        await ledger.open()
        for client in ("cn:a", "cn:rare"):
            await write(ledger, Status.ISSUED, *(intent_at(NOON + at, client=client) for at in (10, 20, 30)))
        before = serials(walk(reader, wanted))
        seen: list[SerialNumber] = []
        after: bytes | None = START
        for step in steps:
            if isinstance(step, tuple):
                status, offset = step
                await write(ledger, status, intent_at(NOON + offset, client=("cn:a", "cn:rare")[offset % 2]))
            elif after is not None:
                page = reader.page(wanted, after, size=step)
                seen += serials(page.records)
                after = page.next_after
        while after is not None:
            page = reader.page(wanted, after, size=1000)
            seen += serials(page.records)
            after = page.next_after
        assert seen == sorted(set(seen), reverse=newest_first)
        assert set(before) <= set(seen)
        reader.close()
        await ledger.close()

    asyncio.run(check())


async def test_a_reader_can_not_write(ledger: Ledger, reader: LedgerReader) -> None:
    await write(ledger, Status.ISSUED, intent_at(NOON))
    with pytest.raises(LedgerUnavailableError, match=r"read-?only"), reader._reading() as connection:
        connection.execute(text("DELETE FROM certificates"))
    assert len(walk(reader)) == 1


async def test_a_reader_sees_one_moment_and_holds_up_nobody(ledger: Ledger, reader: LedgerReader) -> None:
    await write(ledger, Status.ISSUED, intent_at(NOON))
    number = text("SELECT count(*) FROM intents")
    with reader._reading() as connection:
        assert connection.execute(number).scalar() == 1
        await write(ledger, Status.ISSUED, intent_at(NOON))
        assert connection.execute(number).scalar() == 1
    assert len(walk(reader)) == 2


async def test_a_reader_needs_no_place_among_the_daemons(ledger: Ledger, home: Home) -> None:
    await write(ledger, Status.OPEN, intent_at(NOON))
    for _ in range(3):
        reader = LedgerReader(home.config)
        walk(reader)
        reader.close()
    assert home.read("SELECT place FROM replicas") == [(1,)]
    assert await ledger.tend() == 0  # nobody has closed it


def test_a_ledger_that_is_not_there_is_said_and_not_made(bare_home: Home) -> None:
    config = bare_home.config
    if config.path is None:
        config = LedgerConfig(url=f"{config.url}_missing", password_file=config.password_file)
    reader = LedgerReader(config)
    with pytest.raises(ConfigError, match="is not a readable ledger"):
        reader.check()
    reader.close()
    assert config.path is None or not config.path.exists()


def test_a_ledger_of_an_older_schema_is_said(tmp_path: Path) -> None:
    home = SqliteHome(tmp_path)
    engine = open_engine(home.path)
    with engine.begin() as connection:
        migrate(connection, "0003")
    engine.dispose()
    reader = LedgerReader(home.config)
    with pytest.raises(ConfigError, match="has the schema 0003"):
        reader.check()
    reader.close()


async def test_every_question_is_answered_from_an_index(ledger: Ledger, reader: LedgerReader) -> None:
    await fill(ledger)
    plans: list[str] = []
    strays = f"WHERE intents.serial < {'?' if reader._engine.name == 'sqlite' else '%'}"
    looks_for_strays = False

    @event.listens_for(reader._engine, "before_cursor_execute")
    def explain(_: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
        nonlocal looks_for_strays
        looks_for_strays |= strays in " ".join(statement.split())
        if statement.startswith("SELECT") and "FROM replicas" not in statement:
            word = "EXPLAIN QUERY PLAN" if reader._engine.name == "sqlite" else "EXPLAIN"
            asked = cursor.connection.cursor().execute(f"{word} {statement}", parameters)
            plans.extend(step[-1] for step in asked)

    wanted = {
        Filter(): "ix_intents_serial",
        Filter(before=NOON): "ix_intents_serial",
        Filter(client="cn:a", profile="p"): "ix_intents_serial",
        Filter(status=Status.ISSUED): "ix_intents_serial",
        Filter(device_id="a"): "ix_intents_device",
        Filter(batch="b"): "ix_intents_batch",
        Filter(device_id="b"): "ix_intents_void_device",
        Filter(status=Status.VOID): "ix_intents_void",
        Filter(status=Status.OPEN): "intents USING INTEGER PRIMARY KEY|pk_intents",
    }
    newest = {asked._replace(newest_first=True): index for asked, index in wanted.items()}
    for asked, index in (wanted | newest).items():
        plans.clear()
        reader.page(asked, size=10)
        assert any(re.search(rf"({index})( |$)", step) for step in plans), (asked, plans)
        # Nothing is read that is not wanted, and nothing sorted but what one device has.
        assert not any(re.search(r"SCAN intents|Seq Scan|Bitmap", step) for step in plans), (asked, plans)
        assert asked.device_id or not any(re.search(r"ORDER BY|Sort", step) for step in plans), (asked, plans)
    assert looks_for_strays == (reader._engine.name == "sqlite")  # in PostgreSQL, a number has its type
