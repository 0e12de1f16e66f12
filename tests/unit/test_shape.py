"""What lies in the ledger's database that otahsm did not put there, on both databases."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

import otahsm.ledger
from otahsm.errors import LedgerTamperedError
from otahsm.ledger import Verdict, database_of, snapshot, verify, verify_shape
from otahsm.ledger.migrations import migrate
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.ledger.read.reader import LedgerReader
from otahsm.ledger.shape.check import shape_of
from otahsm.ledger.shape.findings import Shape
from otahsm.ledger.shape.postgres_hooks import FUNCTIONS

from support.attacks import postgres_shapes, sqlite_shapes
from support.homes import Home, PostgresHome, SqliteHome, ledger_in
from support.logbook import grow, issue_many, opened


def look(home: Home) -> Shape:
    database = database_of(home.config)
    engine = database.open_reader()
    try:
        with engine.begin() as connection:
            return shape_of(connection)
    finally:
        engine.dispose()
        database.close()


def sentences(findings: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{where}: {what}" for where, what in findings]


def assert_named(home: Home, sentence: str) -> None:
    found = sentences(look(home).tampered)
    assert any(item.startswith(sentence) for item in found), found


def verified(home: Home) -> Verdict:
    with snapshot(home.config) as connection:
        return verify_shape(connection, lambda: verify(connection))


@pytest.fixture
def sqlite_home(empty_sqlite: Home, tmp_path: Path) -> SqliteHome:
    home = empty_sqlite.copied(tmp_path)
    assert isinstance(home, SqliteHome)
    return home


@pytest.fixture
def postgres_home(empty_postgresql: Home, tmp_path: Path) -> PostgresHome:
    home = empty_postgresql.copied(tmp_path)
    assert isinstance(home, PostgresHome)
    return home


async def test_a_ledger_that_nobody_touched_is_as_it_should_be(home: Home) -> None:
    assert look(home) == Shape()
    ledger = await opened(home)
    await issue_many(ledger, 300)
    await grow(ledger)
    await ledger.close()
    assert look(home) == Shape()
    verdict = verified(home)
    assert (verdict.good, verdict.leaves, verdict.warnings) == (True, 300, [])


@pytest.mark.parametrize(
    ("statements", "sentence"), sqlite_shapes.TAMPERED.values(), ids=sqlite_shapes.TAMPERED
)
def test_what_can_change_a_statement_in_sqlite_is_named(
    sqlite_home: SqliteHome, statements: Sequence[str], sentence: str
) -> None:
    sqlite_home.change(*statements)
    assert_named(sqlite_home, sentence)


@pytest.mark.parametrize(
    ("change", "sentence"), sqlite_shapes.REDEFINED.values(), ids=sqlite_shapes.REDEFINED
)
def test_a_definition_that_was_rewritten_in_the_file_is_named(
    sqlite_home: SqliteHome, change: tuple[str, str, str], sentence: str
) -> None:
    table, old, new = change
    with closing(sqlite3.connect(sqlite_home.path)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        for text in database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            assert old in text
        database.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ?", (old, new, table)
        )
    assert_named(sqlite_home, sentence)


@pytest.mark.parametrize(
    ("statements", "sentence"), postgres_shapes.TAMPERED.values(), ids=postgres_shapes.TAMPERED
)
def test_what_can_change_a_statement_in_postgresql_is_named(
    postgres_home: PostgresHome, statements: Sequence[str], sentence: str
) -> None:
    postgres_home.change(*statements)
    assert_named(postgres_home, sentence)


@pytest.mark.parametrize(
    ("statements", "warnings"), sqlite_shapes.HARMLESS.values(), ids=sqlite_shapes.HARMLESS
)
def test_what_can_not_change_a_statement_in_sqlite_is_a_warning_at_most(
    sqlite_home: SqliteHome, statements: Sequence[str], warnings: Sequence[str]
) -> None:
    sqlite_home.change(*statements)
    assert_harmless(sqlite_home, warnings)


@pytest.mark.parametrize(
    ("statements", "warnings"), postgres_shapes.HARMLESS.values(), ids=postgres_shapes.HARMLESS
)
def test_what_can_not_change_a_statement_in_postgresql_is_a_warning_at_most(
    postgres_home: PostgresHome, statements: Sequence[str], warnings: Sequence[str]
) -> None:
    postgres_home.change(*statements)
    assert_harmless(postgres_home, warnings)


def assert_harmless(home: Home, warnings: Sequence[str]) -> None:
    verdict = verified(home)
    assert verdict.findings == []
    found = sentences(verdict.warnings)
    assert len(found) == len(warnings), found
    assert all(item.startswith(start) for item, start in zip(found, warnings, strict=True)), found


def hook(home: Home) -> list[str]:
    """Return what makes a trigger, which removes intents that are released."""
    if isinstance(home, PostgresHome):
        trigger = "CREATE TRIGGER hide BEFORE INSERT ON intents FOR EACH ROW EXECUTE FUNCTION evil()"
        return [postgres_shapes.FUNCTION, trigger]
    return ["CREATE TRIGGER hide BEFORE INSERT ON intents BEGIN SELECT RAISE(IGNORE); END"]


async def test_a_ledger_with_a_trigger_is_not_opened(home: Home) -> None:
    home.change(*hook(home))
    ledger = ledger_in(home)
    with pytest.raises(LedgerTamperedError, match="trigger hide on intents: otahsm makes no triggers"):
        await ledger.open()
    await ledger.close()


async def test_a_ledger_with_another_table_than_ours_is_not_opened(home: Home) -> None:
    home.change("DROP INDEX ix_intents_serial", "DROP INDEX ix_events_time")
    ledger = ledger_in(home)
    with pytest.raises(LedgerTamperedError, match=r"ix_intents_serial on intents: is missing.*and 1 more"):
        await ledger.open()
    await ledger.close()


async def test_a_trigger_does_not_see_a_migration(bare_home: Home) -> None:
    database = database_of(bare_home.config)
    database.hold()
    with database.engine.begin() as connection:
        migrate(connection, "0003")
    database.close()
    bare_home.change(*hook(bare_home))
    ledger = ledger_in(bare_home)
    with pytest.raises(LedgerTamperedError, match="trigger hide on intents"):
        await ledger.open()
    await ledger.close()
    assert bare_home.read("SELECT version_num FROM alembic_version") == [("0003",)]


async def test_a_connection_that_was_open_before_sees_what_was_changed(home: Home) -> None:
    ledger, queries = await opened(home), LedgerQueries(home.config)
    await queries.ask(LedgerReader.check_shape)
    home.change(*hook(home))
    with pytest.raises(LedgerTamperedError, match="trigger hide on intents"):
        await queries.ask(LedgerReader.check_shape)
    await queries.close()
    await ledger.close()


def test_what_is_wrong_with_the_tables_is_named_before_all_that_follows_from_it(home: Home) -> None:
    home.change(*hook(home), "DELETE FROM tree")
    found = sentences(verified(home).findings)
    assert found[0].startswith("trigger hide on intents: ")
    assert found[1].startswith("tree: ")


def test_a_ledger_without_a_table_is_not_verified_and_not_good(home: Home) -> None:
    home.change("DROP TABLE nodes")
    verdict = verified(home)
    assert (verdict.good, verdict.readable, verdict.root) == (False, False, None)
    assert sentences(verdict.findings)[-1] == "rows: were not verified, as tables or columns are missing"


async def test_an_index_that_lies_is_named_by_verify(sqlite_home: SqliteHome) -> None:
    ledger = await opened(sqlite_home)
    await issue_many(ledger, 3)
    await ledger.close()
    with closing(sqlite3.connect(sqlite_home.path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        row = database.execute("SELECT * FROM sqlite_master WHERE name = 'ix_intents_key'").fetchone()
        database.execute("DELETE FROM sqlite_master WHERE name = 'ix_intents_key'")
        database.commit()
    sqlite_home.change("UPDATE intents SET spki_sha256 = zeroblob(32) WHERE id = 2")  # past the index
    with closing(sqlite3.connect(sqlite_home.path)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)
    assert look(sqlite_home) == Shape()
    found = sentences(verified(sqlite_home).findings)
    assert "file: row 2 missing from index ix_intents_key" in found


def test_a_trigger_under_another_kind_is_named(sqlite_home: SqliteHome) -> None:
    with closing(sqlite3.connect(sqlite_home.path)) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        text = "CREATE TRIGGER hide AFTER INSERT ON events BEGIN DELETE FROM events; END"
        database.execute("INSERT INTO sqlite_master VALUES ('Trigger', 'hide', 'events', 0, ?)", (text,))
    assert_named(sqlite_home, "Trigger hide: its definition is of another kind")


def test_the_functions_that_a_schema_must_not_have_are_those_that_otahsm_calls(
    postgres_home: PostgresHome,
) -> None:
    known = {name for (name,) in postgres_home.read("SELECT proname::text FROM pg_proc WHERE oid < 16384")}
    package = Path(otahsm.ledger.__file__).parent
    modules = [path for path in package.rglob("*.py") if path.parent.name not in ("shape", "versions")]
    called = set()
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                called |= set(re.findall(r"(?<![.\w])([a-z_0-9]+)\(", node.value))
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "func":
                called.add(node.attr)
    called = called & known - {"json_each"}  # only with SQLite
    assert len(called) > 8
    assert called <= set(FUNCTIONS)
