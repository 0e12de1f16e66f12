"""The embedded ledger: its file, and what only a file knows."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, text, update

from otahsm.errors import ConfigError, ExitCode, LedgerDamagedError, LedgerUnavailableError
from otahsm.ledger import Accepted, LedgerReader, Replay
from otahsm.ledger.db.sqlite import open_engine
from otahsm.ledger.migrations import migrate
from otahsm.ledger.schema import certificates, intents

from support.homes import SqliteHome, ledger_in
from support.intents import intent, issue
from support.logbook import accept_older


@pytest.fixture
def home(tmp_path: Path) -> SqliteHome:
    return SqliteHome(tmp_path)


async def test_a_ledger_is_held_by_one_daemon(home: SqliteHome) -> None:
    ledger, other = ledger_in(home), ledger_in(home)
    await ledger.open()
    with pytest.raises(ConfigError, match="another daemon holds the ledger"):
        await other.open()
    await ledger.close()


async def test_a_file_that_is_no_ledger_is_refused_and_no_retry_is_advised(home: SqliteHome) -> None:
    home.path.write_bytes(b"this is a text file" * 1000)
    with pytest.raises(LedgerDamagedError, match=rf"can't open the ledger {home.path}: file is not a d"):
        await ledger_in(home).open()
    reader = LedgerReader(home.config)
    with pytest.raises(LedgerDamagedError, match=rf"can't read the ledger {home.path}: ") as damaged:
        reader.check()
    reader.close()
    assert damaged.value.exit_code is ExitCode.OPERATOR
    assert home.path.read_bytes() == b"this is a text file" * 1000


async def test_a_ledger_of_a_newer_version_is_left_alone(home: SqliteHome) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    await ledger.close()
    with closing(sqlite3.connect(home.path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    ledger = ledger_in(home)
    with pytest.raises(ConfigError, match="unknown schema"):
        await ledger.open()
    await ledger.close()


async def test_a_ledger_of_the_first_version_is_taken_over(home: SqliteHome) -> None:
    engine = open_engine(home.path)
    with engine.begin() as connection:
        migrate(connection, "0001")
        # By hand: the schema of the code has columns that the first version has not.
        then = [name for name in intent("a")._fields if name not in {"batch_id", "quota_id", "policy_client"}]
        names = ", ".join(then)
        marks = ", ".join(f":{name}" for name in then)
        for device in ("done", "open", "void"):
            connection.execute(
                text(f"INSERT INTO intents ({names}) VALUES ({marks})"),
                intent(device)._asdict() | {"serial": intent(device).serial.key},
            )
        connection.execute(insert(certificates).values(intent_id=1, der=b"certificate", recorded_at=4))
        connection.execute(update(intents).where(intents.c.id == 3).values(void_reason="why", voided_at=5))
    engine.dispose()
    await accept_older(home)
    ledger = ledger_in(home)
    await ledger.open()
    answers = await ledger.journal([intent("done"), intent("open"), intent("void")])
    assert isinstance(answers[0], Replay)
    assert [type(answer) for answer in answers[1:]] == [Accepted, Accepted]
    await ledger.close()


async def test_a_write_that_fails_at_the_commit_fails_alone(home: SqliteHome) -> None:
    def spoil(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")  # so that the commit itself fails
        connection.execute(insert(certificates).values(intent_id=999, der=b"x", recorded_at=1))

    ledger = ledger_in(home)
    await ledger.open()
    held = threading.Event()
    ledger._writer.thread.submit(held.wait)  # all that comes meanwhile is one group
    group = (ledger.journal([intent("a")]), ledger._writer.transaction(spoil), ledger.journal([intent("b")]))
    writes = [asyncio.create_task(write) for write in group]
    await asyncio.sleep(0)
    held.set()
    before, spoilt, after = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(spoilt, LedgerUnavailableError)
    assert isinstance(before, list)
    assert isinstance(after, list)
    await ledger.close()
    assert home.read("SELECT device_id FROM intents ORDER BY id") == [("a",), ("b",)]


async def test_only_its_owner_may_read_a_new_ledger(home: SqliteHome, tmp_path: Path) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    await issue(ledger, intent("a"))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    await ledger.close()


def test_every_commit_waits_for_the_disk(home: SqliteHome) -> None:
    with open_engine(home.path).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
