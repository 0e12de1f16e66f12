"""The embedded ledger: one SQLite file, one writer, held by one daemon at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, func, select

from otahsm.errors import ConfigError
from otahsm.ledger.db.checkpointing import Checkpointer
from otahsm.ledger.db.read_only import sqlite_reader
from otahsm.ledger.schema import intents
from otahsm.system.durable import make_durable, make_folder

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # WAL's default loses the last commits in a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",
    # Pages of the indexes come back again and again: keep them, and copy them home seldom (`Checkpointer`).
    "PRAGMA cache_size = -16384",  # KiB
    "PRAGMA wal_autocheckpoint = 64000",  # pages: the log grows to 256 MiB
)


class SqliteDatabase:
    """The file.

    Args:
        path: where; it and its folder are made if they are missing.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.engine = open_engine(path)
        self.slot = 1
        self.slot_is_new = True
        self._path = path
        self._lock: int | None = None
        self._checkpointer: Checkpointer | None = None
        self._last_id: int | None = None

    def open_reader(self) -> Engine:
        """Open one more connection, which can only read; readers and the writer don't wait for each other."""
        return sqlite_reader(self._path)

    def hold(self) -> None:
        """Take the file for this process alone.

        Raises:
            ConfigError: it can't be used, or another daemon holds it.
        """
        try:
            make_folder(self._path.parent, 0o700)
            self._lock = lock(self._path)
            # Made here, so that it is ours alone to read whatever the umask.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            make_durable([self._path.parent])  # SQLite makes the content durable; the name is ours to
        except OSError as error:
            raise ConfigError(f"the ledger {self._path} can't be used: {error.strerror}") from None

    def take_ids(self, connection: Connection, count: int) -> list[int]:
        """Return ids that no intent ever had, in rising order."""
        if self._last_id is None:
            self._last_id = connection.execute(_LAST_ID).scalar() or 0
        first = self._last_id + 1
        self._last_id += count
        return list(range(first, first + count))

    def forget_ids(self) -> None:
        """Nothing to do: the next ids are above all that there are anyway."""

    def recorded(self, certificates: int) -> None:
        """Note that so many certificates were recorded."""
        if self._checkpointer is None:
            self._checkpointer = Checkpointer(self._path)
        self._checkpointer.wrote(certificates)

    def tend(self, connection: Connection) -> None:
        """Nothing to do: SQLite takes the index whose columns it is given."""

    def close(self) -> None:
        """Let go of the file."""
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None
        self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


_LAST_ID: Final = select(func.max(intents.c.id))


def lock(path: Path) -> int:
    """Take the place of a ledger for this process alone; return what holds it, to be closed.

    Raises:
        ConfigError: another process holds it, or the lock file can't be made.
    """
    try:
        held = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"the ledger {path} can't be used: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ConfigError(
            f"another daemon holds the ledger {path}",
            hint="One daemon runs on one SQLite ledger. Stop the other one, or give this one its own.",
        ) from None
    return held


def open_engine(path: Path) -> Engine:
    """Open a ledger's file, making it if it is missing, with all that durability needs."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # What is read and what is then written is one thing (I3): take the write lock at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
