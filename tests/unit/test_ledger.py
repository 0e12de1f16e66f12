"""The ledger, on a real SQLite file: what is accepted, what is replayed, what is refused, what survives."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, insert, update

from otahsm.errors import ConfigError, LedgerUnavailableError
from otahsm.ledger import Accepted, Conflict, InProgress, Intent, Ledger, Replay
from otahsm.ledger.schema import certificates, intents, metadata
from otahsm.ledger.store import migrate, open_engine

CA = bytes(20)


def intent(device: str, key: str = "", request: str = "", profile: str = "p") -> Intent:
    key = key or device
    return Intent(
        serial=os.urandom(20),
        request_id=request or f"{profile}/{device}/{key}",
        profile=profile,
        device_id=device,
        spki_sha256=hashlib.sha256(key.encode()).digest(),
        tbs_sha256=os.urandom(32),
        issuer_key_id=CA,
        not_before=1,
        not_after=2,
        client="cn:test",
        client_certificate_sha256=bytes(32),
        intended_at=3,
    )


async def issue(ledger: Ledger, *intents: Intent) -> None:
    for wanted, answer in zip(intents, await ledger.journal(intents), strict=True):
        assert isinstance(answer, Accepted)
        await ledger.record({answer.intent_id: b"certificate of " + wanted.device_id.encode()})


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite3", CA)
    assert await ledger.open() == 0
    yield ledger
    await ledger.close()


async def test_the_same_device_and_key_again_gets_the_same_certificate(ledger: Ledger) -> None:
    first = intent("a")
    await issue(ledger, first)
    for again in (intent("a"), intent("a", request="another request id")):
        (answer,) = await ledger.journal([again])
        assert answer == Replay(b"certificate of a", first.serial, 1, 2)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (intent("a", key="other"), "the device id a has the certificate"),
        (intent("b", key="a"), "the public key belongs to the device a"),
        (intent("b", key="a", profile="q"), "the public key belongs to the device a"),
        (intent("b", request="p/a/a"), "the request id p/a/a was used for the device a"),
        (intent("a", request="p/a/a", profile="q"), "the request id p/a/a was used for the device a"),
    ],
)
async def test_a_device_id_a_key_and_a_request_id_belong_to_one_certificate(
    ledger: Ledger, asked: Intent, named: str
) -> None:
    first = intent("a")
    await issue(ledger, first)
    (answer,) = await ledger.journal([asked])
    assert isinstance(answer, Conflict)
    assert named in answer.message
    assert f"{int.from_bytes(first.serial, 'big'):x}" in answer.message


async def test_one_device_may_have_certificates_under_two_profiles_for_the_same_key(ledger: Ledger) -> None:
    await issue(ledger, intent("a"), intent("a", profile="q"))


async def test_what_is_under_way_is_not_begun_again(ledger: Ledger) -> None:
    assert [type(answer) for answer in await ledger.journal([intent("a"), intent("a")])] == [
        Accepted,
        InProgress,
    ]
    assert [type(answer) for answer in await ledger.journal([intent("a")])] == [InProgress]


async def test_conflicts_inside_one_batch_are_found(ledger: Ledger) -> None:
    answers = await ledger.journal([intent("a"), intent("a", key="k"), intent("b", key="a"), intent("c")])
    assert [type(answer) for answer in answers] == [Accepted, Conflict, Conflict, Accepted]


async def test_a_voided_device_may_ask_again(ledger: Ledger) -> None:
    (answer,) = await ledger.journal([intent("a")])
    assert isinstance(answer, Accepted)
    await ledger.void([answer.intent_id], "the token was away")
    await issue(ledger, intent("a"))


async def test_a_recorded_certificate_can_not_be_voided(ledger: Ledger) -> None:
    (answer,) = await ledger.journal([intent("a")])
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: b"x"})
    await ledger.void([answer.intent_id], "by mistake")
    (again,) = await ledger.journal([intent("a")])
    assert isinstance(again, Replay)


async def test_open_intents_are_voided_when_the_ledger_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path, CA)
    await ledger.open()
    await issue(ledger, intent("done"))
    await ledger.journal([intent("open"), intent("open too")])
    await ledger.close()
    assert await ledger_opened_again(path) == 2
    assert await ledger_opened_again(path) == 0
    with closing(sqlite3.connect(path)) as database:
        reasons = database.execute("SELECT device_id, void_reason FROM intents ORDER BY id").fetchall()
    assert reasons[0] == ("done", None)
    assert all("stopped before" in reason for _, reason in reasons[1:])


async def test_an_intent_left_open_behind_newer_ones_is_found_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path, CA)
    await ledger.open()
    await issue(ledger, intent("done"))
    await ledger.journal([intent("stuck in a signer")])
    for number in range(5):
        await issue(ledger, intent(f"newer-{number}"))
    await ledger.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT closed_below FROM progress").fetchall() == [(2,)]
    assert await ledger_opened_again(path) == 1
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT closed_below FROM progress").fetchall() == [(8,)]


async def test_a_ledger_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    engine = open_engine(path)
    with engine.begin() as connection:
        migrate(connection, "0001")
        rows = [intent("done"), intent("open"), intent("void")]
        connection.execute(insert(intents), [row._asdict() for row in rows])
        connection.execute(insert(certificates).values(intent_id=1, der=b"certificate", recorded_at=4))
        connection.execute(update(intents).where(intents.c.id == 3).values(void_reason="why", voided_at=5))
    engine.dispose()
    ledger = Ledger(path, CA)
    assert await ledger.open() == 1
    answers = await ledger.journal([intent("done"), intent("open"), intent("void")])
    assert isinstance(answers[0], Replay)
    assert answers[1:] == [Accepted(4), Accepted(5)]
    await ledger.close()


async def ledger_opened_again(path: Path) -> int:
    ledger = Ledger(path, CA)
    voided = await ledger.open()
    await ledger.close()
    return voided


async def test_a_serial_number_can_not_be_used_twice(ledger: Ledger) -> None:
    first, second = intent("a"), intent("b")
    await issue(ledger, first)
    twin = second._replace(serial=first.serial)
    with pytest.raises(LedgerUnavailableError):
        await ledger.journal([twin])


async def test_a_write_that_fails_at_the_commit_fails_alone(
    ledger: Ledger,
) -> None:
    def spoil(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")  # so that the commit itself fails
        connection.execute(insert(certificates).values(intent_id=999, der=b"x", recorded_at=1))

    held = threading.Event()
    ledger._writer.submit(held.wait)  # all that comes meanwhile is one group
    group = (ledger.journal([intent("a")]), ledger._transaction(spoil), ledger.journal([intent("b")]))
    writes = [asyncio.create_task(write) for write in group]
    await asyncio.sleep(0)
    held.set()
    before, spoilt, after = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(spoilt, LedgerUnavailableError)
    assert [before, after] == [[Accepted(1)], [Accepted(2)]]
    assert isinstance((await ledger.journal([intent("a")]))[0], InProgress)


@pytest.mark.usefixtures("ledger")
async def test_a_ledger_is_held_by_one_daemon(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another daemon holds the ledger"):
        await Ledger(tmp_path / "ledger.sqlite3", CA).open()


async def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"this is a text file" * 1000)
    with pytest.raises(ConfigError, match="is no ledger"):
        await Ledger(path, CA).open()
    assert path.read_bytes() == b"this is a text file" * 1000


async def test_a_ledger_belongs_to_one_ca(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    ledger = Ledger(path, CA)
    await ledger.open()
    await ledger.close()
    other = Ledger(path, b"another CA")  # empty: it may still become anybody's
    await other.open()
    await other.close()
    await ledger_opened_again(path)
    ledger = Ledger(path, CA)
    await ledger.open()
    await issue(ledger, intent("a"))
    await ledger.close()
    other = Ledger(path, b"another CA")
    with pytest.raises(ConfigError, match="of another CA"):
        await other.open()
    await other.close()
    assert await ledger_opened_again(path) == 0


async def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    await ledger_opened_again(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    ledger = Ledger(path, CA)
    with pytest.raises(ConfigError, match="doesn't know"):
        await ledger.open()
    await ledger.close()


async def test_a_closed_ledger_says_that_it_is_unavailable(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3", CA)
    with pytest.raises(LedgerUnavailableError):
        await ledger.journal([intent("a")])


async def test_only_its_owner_may_read_a_new_ledger(ledger: Ledger, tmp_path: Path) -> None:
    await issue(ledger, intent("a"))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    with open_engine(tmp_path / "ledger.sqlite3").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_the_migrations_make_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with engine.begin() as connection:
        migrate(connection)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


NAMES = st.sampled_from("abc")


@given(asked=st.lists(st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=6), max_size=6), data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_asked_a_device_and_a_key_get_one_certificate(
    tmp_path_factory: pytest.TempPathFactory, asked: list[list[tuple[str, str, str]]], data: st.DataObject
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("model") / "ledger.sqlite3", CA)
    await ledger.open()
    certificate_of: dict[str, tuple[str, bytes]] = {}
    for number, batch in enumerate(asked):
        intents = [intent(device, key, request) for device, key, request in batch]
        for wanted, answer in zip(intents, await ledger.journal(intents), strict=True):
            key = wanted.spki_sha256.hex()
            known = certificate_of.get(wanted.device_id)
            if isinstance(answer, Replay):
                assert known == (key, answer.certificate)
            elif isinstance(answer, Accepted):
                assert known is None
                assert key not in [other for other, _ in certificate_of.values()]
                if data.draw(st.booleans()):
                    der = f"{number} {wanted.device_id}".encode()
                    await ledger.record({answer.intent_id: der})
                    certificate_of[wanted.device_id] = (key, der)
                else:
                    await ledger.void([answer.intent_id], "drawn")
    await ledger.close()
