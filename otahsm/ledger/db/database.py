"""The database of a ledger: an SQLite file for one daemon, or a PostgreSQL database for several."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection, Engine

from otahsm.config import LedgerConfig
from otahsm.ledger.db.postgres import PostgresDatabase
from otahsm.ledger.db.sqlite import SqliteDatabase


class Database(Protocol):
    """The database of a ledger.

    Attributes:
        name: its name in messages.
        engine: has a single connection, the only one that may write.
        slot: the replica slot of this daemon (see `otahsm.ledger.schema.replicas`).
        slot_is_new: whether intents that an earlier holder of the slot left open must still be voided.
    """

    name: str
    engine: Engine
    slot: int
    slot_is_new: bool

    def open_reader(self) -> Engine:
        """Open another connection, for reading: each transaction reads a consistent snapshot."""

    def hold(self) -> None:
        """Acquire locks before the first connection. Raises ConfigError."""

    def take_ids(self, connection: Connection, count: int) -> list[int]:
        """Return ids that no intent ever had, in ascending order."""

    def forget_ids(self) -> None:
        """Discard reserved ids, so that the next ids are above all existing ones."""

    def recorded(self, certificates: int) -> None:
        """Note the number of certificates that were recorded."""

    def tend(self, connection: Connection) -> None:
        """Do maintenance that keeps look-ups fast, in a transaction. Called every few seconds."""

    def close(self) -> None:
        """Close the database, and release locks."""


def database_of(config: LedgerConfig) -> Database:
    """Return the database that a configuration names. Raises ConfigError."""
    if config.url is not None:
        return PostgresDatabase(config.url, config.password_file)
    assert config.path is not None  # noqa: S101 - the configuration was validated
    return SqliteDatabase(config.path)
