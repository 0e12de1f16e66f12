"""Backups of the SQLite ledger, and what is put back from them."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerDamagedError, LedgerUnavailableError
from otahsm.ledger import Accepted, Ledger, Replay, copy_ledger, path_of, vacant

from support.homes import PostgresHome, SqliteHome, ledger_in
from support.intents import intent, issue
from support.postgres import PostgresServer


@pytest.fixture
def home(tmp_path: Path) -> SqliteHome:
    return SqliteHome(tmp_path)


def everything(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return list(database.iterdump())


async def filled(home: SqliteHome) -> Ledger:
    ledger = ledger_in(home)
    await ledger.open()
    await issue(ledger, intent("a"), intent("b"))
    first, _ = await ledger.journal([intent("void"), intent("open")])
    assert isinstance(first, Accepted)
    await ledger.void([first.intent_id], "a test")
    return ledger


async def test_a_copy_is_the_ledger_in_one_file(home: SqliteHome, tmp_path: Path) -> None:
    ledger = await filled(home)
    copy = tmp_path / "copy"
    told = copy_ledger(home.path, copy)
    assert (told.certificates, told.void, told.open) == (2, 1, 1)
    assert told.newest_at is not None
    assert told.octets == copy.stat().st_size
    assert everything(copy) == everything(home.path)
    await ledger.close()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy"]


async def test_a_copy_can_be_read_where_nothing_can_be_written(home: SqliteHome, tmp_path: Path) -> None:
    ledger = await filled(home)
    folder = tmp_path / "folder"
    folder.mkdir()
    copy_ledger(home.path, folder / "copy")
    await ledger.close()
    assert (folder / "copy").read_bytes()[18:20] == b"\1\1"  # no write-ahead log (file format, 1.3.3)
    assert everything(folder / "copy")
    assert [path.name for path in folder.iterdir()] == ["copy"]


async def test_a_copy_made_while_others_write_has_all_that_was_there_and_is_whole(
    home: SqliteHome, tmp_path: Path
) -> None:
    ledger = await filled(home)
    ended = asyncio.Event()
    released: list[str] = []

    async def write() -> None:
        while not ended.is_set():
            devices = [f"device-{len(released) + number}" for number in range(64)]
            answers = await ledger.journal([intent(device) for device in devices])
            accepted = [answer for answer in answers if isinstance(answer, Accepted)]
            await ledger.record({answer.intent_id: b"x" * 460 for answer in accepted})
            released.extend(devices)

    writers = [asyncio.create_task(write())]
    for number in range(5):
        while len(released) < 1000 * number:
            await asyncio.sleep(0)
        before = set(released)
        copy = tmp_path / f"copy-{number}"
        await asyncio.to_thread(copy_ledger, home.path, copy)
        with closing(sqlite3.connect(copy)) as database:
            issued = database.execute("SELECT device_id FROM intents JOIN certificates ON intent_id = id")
            assert before <= {device for (device,) in issued}
    assert len(released) > len(before)  # they were not held up
    ended.set()
    await asyncio.gather(*writers)
    await ledger.close()


async def test_a_ledger_put_back_goes_on_where_the_copy_ends(home: SqliteHome, tmp_path: Path) -> None:
    ledger = await filled(home)
    copy_ledger(home.path, tmp_path / "copy")
    await ledger.close()
    again = SqliteHome(tmp_path / "new")
    with vacant(again.path):
        copy_ledger(tmp_path / "copy", again.path)
    ledger = ledger_in(again)
    assert await ledger.open() == 1  # what was open when the copy was made
    (answer,) = await ledger.journal([intent("a")])
    assert isinstance(answer, Replay)
    assert answer.certificate == b"certificate of a"
    await issue(ledger, intent("open"), intent("void"), intent("new"))
    await ledger.close()


async def test_nothing_is_put_where_a_daemon_runs_or_anything_is(home: SqliteHome) -> None:
    ledger = await filled(home)
    with pytest.raises(ConfigError, match="another daemon holds"), vacant(home.path):
        pytest.fail("a daemon runs")
    await ledger.close()
    with pytest.raises(ConfigError, match="exists; nothing was changed"), vacant(home.path):
        pytest.fail("there is a ledger")
    home.path.unlink()
    home.path.with_name("ledger.sqlite3-wal").touch()
    with pytest.raises(ConfigError, match="-wal exists"), vacant(home.path):
        pytest.fail("there is a part of one")


async def test_no_daemon_starts_while_a_ledger_is_put_back(home: SqliteHome) -> None:
    ledger = ledger_in(home)
    with vacant(home.path), pytest.raises(ConfigError, match="holds the ledger"):
        await ledger.open()
    assert await ledger.open() == 0
    await ledger.close()


@pytest.mark.parametrize("content", [b"", b"a text " * 1000])
def test_what_is_no_ledger_is_not_copied(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source").write_bytes(content)
    with pytest.raises(ConfigError, match="is not a readable ledger"):
        copy_ledger(tmp_path / "source", tmp_path / "target")


def test_what_is_not_there_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, LedgerUnavailableError)):
        copy_ledger(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "source").exists()


async def test_a_ledger_of_a_newer_version_is_not_put_back(home: SqliteHome, tmp_path: Path) -> None:
    await (await filled(home)).close()
    with closing(sqlite3.connect(home.path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="unknown schema 9999"):
        copy_ledger(home.path, tmp_path / "target")


async def test_a_damaged_ledger_is_found_out(home: SqliteHome, tmp_path: Path) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    await issue(ledger, *(intent(f"device-{number}") for number in range(200)))
    await ledger.close()
    with closing(sqlite3.connect(home.path)) as database:
        (page,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_intents_key'"
        ).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with home.path.open("r+b") as file:
        file.seek((page - 1) * size + size // 2)
        file.write(b"\0" * (size // 2))
    with pytest.raises(LedgerDamagedError, match=r"is damaged|can't copy"):
        copy_ledger(home.path, tmp_path / "target")


async def test_an_index_that_lacks_a_row_is_found_out(home: SqliteHome, tmp_path: Path) -> None:
    await (await filled(home)).close()
    with closing(sqlite3.connect(home.path)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'IS NULL', 'IS NOT NULL')"
            " WHERE name = 'ix_intents_key'"
        )
    with pytest.raises(LedgerDamagedError, match="is damaged"):
        copy_ledger(home.path, tmp_path / "target")


def test_postgresql_is_left_to_its_own_tools(postgres_server: PostgresServer) -> None:
    with pytest.raises(ConfigError, match="PostgreSQL") as caught:
        path_of(PostgresHome(postgres_server).config)
    assert "pg_dump" in caught.value.hint
    assert path_of(LedgerConfig(path=Path("/x"))) == Path("/x")


async def test_only_its_owner_may_read_what_lies_beside_a_ledger(home: SqliteHome) -> None:
    with vacant(home.path):
        (lock,) = home.path.parent.iterdir()
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
