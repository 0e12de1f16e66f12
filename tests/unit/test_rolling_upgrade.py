"""A newer otahsm upgrades a shared ledger while a daemon of this version uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from otahsm.errors import ConfigError, LedgerTamperedError
from otahsm.ledger import LedgerReader, snapshot
from otahsm.ledger.migrations import NEWEST

from support.homes import MAC_KEYS, Home, PostgresHome, SqliteHome, ledger_in
from support.logbook import findings, grow, issue_many

NEWER = "9998"
ADDED = (
    "ALTER TABLE intents ADD COLUMN colour TEXT",
    "CREATE INDEX ix_intents_colour ON intents (colour)",
    "CREATE TABLE colours (id BIGINT PRIMARY KEY)",
)


def upgraded(*statements: str, usable_since: str | None = NEWEST) -> Sequence[str]:
    """What the migration of a newer otahsm does."""
    said = f"INSERT INTO compatible_schemas VALUES ('{NEWER}', '{usable_since}')"
    moved = f"UPDATE alembic_version SET version_num = '{NEWER}'"
    return (*statements, *([said] if usable_since else []), moved)


@pytest.fixture
def shared(postgres_server: Any) -> PostgresHome:
    return PostgresHome(postgres_server)


async def test_a_daemon_works_beside_one_that_upgraded_the_ledger(shared: PostgresHome) -> None:
    running = ledger_in(shared)
    await running.open()
    await issue_many(running, 1, "before")
    shared.change(*upgraded(*ADDED))
    await issue_many(running, 1, "after")
    reader = LedgerReader(shared.config)
    reader.check()
    reader.check_shape()
    reader.close()
    later = ledger_in(shared)
    await later.open()
    await issue_many(later, 1, "later")
    # An entry of a kind that only the newer one has.
    hashed = bytes(32)
    mac = MAC_KEYS.mac(99, 1, hashed)
    values = f"99, 1, '\\x{hashed.hex()}', '\\x{mac.hex()}'"
    shared.change(f"INSERT INTO unlogged (kind, intent_id, hash, mac) VALUES ({values})")
    assert await grow(later) + await grow(running) == 4
    await later.close()
    await running.close()
    with pytest.raises(ConfigError, match=f"has the schema {NEWER}"), snapshot(shared.config):
        pass


@pytest.mark.parametrize(
    ("statements", "error"),
    [
        (upgraded(*ADDED, usable_since=None), ConfigError),
        (upgraded(*ADDED, usable_since="9997"), ConfigError),
        (upgraded(*ADDED, usable_since="head"), ConfigError),
        (upgraded("ALTER TABLE intents ADD COLUMN colour TEXT NOT NULL DEFAULT 'x'"), LedgerTamperedError),
        (upgraded("ALTER TABLE intents DROP COLUMN supersedes"), LedgerTamperedError),
        (upgraded("CREATE UNIQUE INDEX ix_odd ON intents (client)"), LedgerTamperedError),
    ],
)
async def test_what_a_newer_schema_does_not_allow_is_refused(
    shared: PostgresHome, statements: Sequence[str], error: type[Exception]
) -> None:
    ledger = ledger_in(shared)
    await ledger.open()
    await ledger.close()
    shared.change(*statements)
    ledger = ledger_in(shared)
    with pytest.raises(error):
        await ledger.open()
    await ledger.close()


async def test_who_says_that_of_a_version_that_is_none_is_named(home: Home) -> None:
    ledger = ledger_in(home)
    await ledger.open()
    await ledger.close()
    home.change(f"INSERT INTO compatible_schemas VALUES ('{NEWER}', '{NEWEST}')")
    assert findings(home) == [f"compatible schema '{NEWER}': is of no migration: it was added"]
    if isinstance(home, SqliteHome):  # it has one daemon, so no other works beside it
        home.change(f"UPDATE alembic_version SET version_num = '{NEWER}'")
        ledger = ledger_in(home)
        with pytest.raises(ConfigError, match="unknown schema"):
            await ledger.open()
        await ledger.close()
