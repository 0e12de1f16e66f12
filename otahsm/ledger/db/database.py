"""Where a ledger is: an SQLite file for one daemon, or a PostgreSQL database for any number of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine

from otahsm.config import LedgerConfig
from otahsm.ledger.db.postgres import PostgresDatabase, throwaway_schema
from otahsm.ledger.db.sqlite import SqliteDatabase


class Database(Protocol):
    """Where a ledger is: an SQLite file, or a PostgreSQL server.

    Attributes:
        name: for messages.
        engine: has one connection, which is the one that may write.
        slot: which replica slot this daemon holds (see `otahsm.ledger.schema.replicas`).
        slot_is_new: whether what an earlier holder left open there is still to be closed.
    """

    name: str
    engine: Engine
    slot: int
    slot_is_new: bool

    def open_reader(self) -> Engine:
        """Open one more connection, for reading: all that a transaction reads there is of one moment."""

    def hold(self) -> None:
        """Take what must be held before the first connection. Raises ConfigError."""

    def take_ids(self, connection: Connection, count: int) -> list[int]:
        """Return ids that no intent ever had, in rising order."""

    def forget_ids(self) -> None:
        """Use none of the ids that were taken before: the next ones are above all that there are."""

    def recorded(self, certificates: int) -> None:
        """Note that so many certificates were recorded."""

    def tend(self, connection: Connection) -> None:
        """Do in a transaction what keeps look-ups fast; it is asked every few seconds."""

    def close(self) -> None:
        """Let go of it."""


def database_of(config: LedgerConfig) -> Database:
    """Return the database that a configuration names. Raises ConfigError."""
    if config.url is not None:
        return PostgresDatabase(config.url, config.password_file)
    assert config.path is not None  # noqa: S101 - the configuration was checked
    return SqliteDatabase(config.path)


@contextmanager
def throwaway(config: LedgerConfig) -> Iterator[LedgerConfig]:
    """Make an empty ledger on the same disk or server, and remove it in the end.

    Raises:
        ConfigError: the configuration is wrong.
        LedgerUnavailableError: it can't be made.
    """
    if config.url is not None:
        with throwaway_schema(config.url, config.password_file) as url:
            yield config.model_copy(update={"url": url})
        return
    assert config.path is not None  # noqa: S101 - the configuration was checked
    config.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=config.path.parent) as name:
        yield config.model_copy(update={"path": Path(name, "ledger.sqlite3")})
