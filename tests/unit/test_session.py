"""Sessions in PostgreSQL: they see the ledger's schema, whatever users and databases are set to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError
from otahsm.ledger import Ledger, LedgerReader, database_of, snapshot
from otahsm.ledger.db.read_only import read_only_engine
from otahsm.ledger.db.session import schema_of

from support.homes import CA, MAC_KEYS, PostgresHome, ledger_in
from support.intents import intent, issue
from support.postgres import USER, PostgresServer

OURS = '"public", pg_temp'


@pytest.fixture
def home(empty_postgresql: PostgresHome) -> PostgresHome:
    return PostgresHome(empty_postgresql.server, like=empty_postgresql.url.rpartition("/")[2])


def in_schema(home: PostgresHome, schema: str) -> LedgerConfig:
    return LedgerConfig(url=f"{home.url}?options={schema}", password_file=home.server.password_file)


@contextmanager
def connections(home: PostgresHome) -> Iterator[list[Connection]]:
    """Open one of each kind that otahsm opens."""
    database = database_of(home.config)
    engines: list[Engine] = [database.engine, database.open_reader(), read_only_engine(home.config)]
    with snapshot(home.config) as shown:
        opened = [engine.connect() for engine in engines]
        yield [shown, *opened]
        for connection in opened:
            connection.close()
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize(
    ("options", "schema"),
    [
        ("", "public"),
        ("-cstatement_timeout=5s", "public"),
        ("-csearch_path=Ledger", "ledger"),
        ("-c search_path=ledger", "ledger"),
        ("-cstatement_timeout=5s --search-path=ledger -cjit=off", "ledger"),
        ("-csearch_path=first -csearch_path=second", "second"),
        ('-csearch_path="My\\ ""Ledger"""', 'My "Ledger"'),
    ],
)
def test_the_schema_is_the_one_in_the_url(options: str, schema: str) -> None:
    url = make_url("postgresql://a@b/c").update_query_dict({"options": options} if options else {})
    assert schema_of(url) == schema


@pytest.mark.parametrize("value", ["a,b", '"$user"', "$user", '"a"b', "", "1a"])
def test_what_is_not_one_schema_is_refused(value: str) -> None:
    url = make_url("postgresql://a@b/c").update_query_dict({"options": f"-csearch_path={value}"})
    with pytest.raises(ConfigError, match="is not one schema"):
        schema_of(url)


def test_every_connection_sees_the_schema_of_the_ledger_alone(home: PostgresHome) -> None:
    name = home.url.rpartition("/")[2]
    home.change(
        "CREATE SCHEMA evil",
        "CREATE TABLE evil.alembic_version (version_num text)",
        "CREATE VIEW evil.intents AS SELECT * FROM public.intents WHERE false",
        f"ALTER DATABASE {name} SET search_path = evil, public",
    )
    with connections(home) as opened:
        for connection in opened:
            assert connection.exec_driver_sql("SHOW search_path").scalar() == OURS
            found = connection.exec_driver_sql("SELECT 'intents'::regclass = 'public.intents'::regclass")
            assert found.scalar()


@pytest.mark.parametrize(
    ("setting", "value", "ours"),
    [
        ("row_security", "on", "off"),
        ("default_transaction_isolation", "'repeatable read'", "read committed"),
        ("standard_conforming_strings", "off", "on"),
        ("array_nulls", "off", "on"),
        ("client_encoding", "latin1", "UTF8"),
        ("quote_all_identifiers", "on", "off"),
    ],
)
def test_what_a_statement_means_does_not_depend_on_the_settings_of_the_database(
    home: PostgresHome, setting: str, value: str, ours: str
) -> None:
    home.change(f"ALTER DATABASE {home.url.rpartition('/')[2]} SET {setting} = {value}")
    database = database_of(home.config)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql(f"SHOW {setting}").scalar() == ours
    database.close()


def test_a_policy_makes_a_query_fail_and_hides_nothing(home: PostgresHome) -> None:
    home.change(
        "DROP ROLE IF EXISTS reading",
        "CREATE ROLE reading LOGIN PASSWORD 'secret'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reading",
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
    )
    url = home.url.replace(f"{USER}@", "reading:secret@")
    engine = read_only_engine(LedgerConfig(url=url))
    with engine.connect() as connection, pytest.raises(DBAPIError, match="row-level security"):
        connection.exec_driver_sql("SELECT * FROM events")
    engine.dispose()


async def test_a_ledger_in_a_schema_that_the_url_names_is_used(home: PostgresHome) -> None:
    home.change('CREATE SCHEMA "My Ledger"')
    config = in_schema(home, "-csearch_path%3D%22My%5C%20Ledger%22")
    ledger = Ledger(database_of(config), MAC_KEYS, [CA])
    assert await ledger.open() == 0
    await issue(ledger, intent("a"))
    await ledger.close()
    assert home.read('SELECT count(*) FROM "My Ledger".certificates') == [(1,)]
    assert home.read("SELECT count(*) FROM certificates") == [(0,)]


async def test_a_ledger_that_only_the_users_search_path_finds_is_not_begun_anew(
    postgres_server: PostgresServer,
) -> None:
    home = PostgresHome(postgres_server)
    name = home.url.rpartition("/")[2]
    home.change("CREATE SCHEMA ledgers")
    ledger = Ledger(database_of(in_schema(home, "-csearch_path=ledgers")), MAC_KEYS, [CA])
    await ledger.open()
    await ledger.close()
    home.change(f"ALTER DATABASE {name} SET search_path = ledgers")
    with pytest.raises(ConfigError, match="but the schema ledgers has one") as caught:
        await ledger_in(home).open()
    assert "?options=-csearch_path=ledgers" in caught.value.hint
    with pytest.raises(ConfigError, match="but the schema ledgers has one"):
        LedgerReader(home.config).check()
    assert home.read("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


async def test_a_schema_that_is_not_there_is_named(home: PostgresHome) -> None:
    ledger = Ledger(database_of(in_schema(home, "-csearch_path=nowhere")), MAC_KEYS, [CA])
    with pytest.raises(ConfigError, match="the database has no schema nowhere"):
        await ledger.open()
    await ledger.close()


def test_the_settings_hold_after_a_reconnect(home: PostgresHome) -> None:
    database = database_of(home.config)
    with database.engine.connect() as connection:
        first = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    with home.server.connect("postgres") as administrator:
        administrator.execute("SELECT pg_terminate_backend(%s, 10000)", (first,))
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != first
        assert connection.exec_driver_sql("SHOW search_path").scalar() == OURS
    database.close()
