"""Where a ledger lives, for tests that hold for SQLite and PostgreSQL alike."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from otahsm.config import LedgerConfig
from otahsm.ledger import Ledger, MacKeys, database_of

from support.postgres import PostgresServer

CA = bytes(20)
MAC_KEYS = MacKeys(bytes(range(32)), ledgers=(CA,))


class Home(Protocol):
    """A place for a ledger."""

    config: LedgerConfig

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database itself."""

    def change(self, *statements: str) -> None:
        """Change the database behind otahsm's back, in one transaction."""

    def copied(self, folder: Path) -> Home:
        """Copy it while nothing has it open; a file is copied into the folder."""


class SqliteHome:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite3"
        self.config = LedgerConfig(path=self.path)

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(query).fetchall()

    def change(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            for statement in statements:
                database.execute(statement)

    def copied(self, folder: Path) -> Home:
        copy = SqliteHome(folder)
        shutil.copy(self.path, copy.path)
        return copy


class PostgresHome:
    def __init__(self, server: PostgresServer, like: str = "template1") -> None:
        self.server = server
        self.url = server.create_database(like)
        self.config = LedgerConfig(url=self.url, password_file=server.password_file)

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with self.server.connect(self.url.rpartition("/")[2]) as connection:
            return connection.execute(query).fetchall()

    def change(self, *statements: str) -> None:
        with self.server.connect(self.url.rpartition("/")[2]) as connection, connection.transaction():
            for statement in statements:
                connection.execute(statement)

    def copied(self, folder: Path) -> Home:  # noqa: ARG002 - no file is copied
        return PostgresHome(self.server, like=self.url.rpartition("/")[2])


def ledger_in(home: Home, issuer_key_id: bytes = CA) -> Ledger:
    """Return a ledger there, not opened yet."""
    return Ledger(database_of(home.config), MAC_KEYS, [issuer_key_id])
