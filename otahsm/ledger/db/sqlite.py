"""The embedded ledger: one SQLite file, locked by one daemon, with one writer."""

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
from otahsm.system.durable import make_durable, make_folder, open_beside
from otahsm.system.owners import check_owner

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # the default for WAL may lose the last commits in a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",
    # Index pages are written repeatedly: cache them, and checkpoint them rarely (`Checkpointer`).
    "PRAGMA cache_size = -16384",  # KiB
    "PRAGMA wal_autocheckpoint = 64000",  # pages: the log grows to 256 MiB
)


class SqliteDatabase:
    """An SQLite file.

    Args:
        path: the file; it and its folder are created if they are missing.
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
        """Open another, read-only connection; readers and the writer don't block each other."""
        return sqlite_reader(self._path)

    def hold(self) -> None:
        """Lock the file for this process.

        Raises:
            ConfigError: it can't be used, or another daemon holds it.
        """
        check_owner(self._path)
        try:
            make_folder(self._path.parent, 0o700)
            self._lock = lock(self._path)
            # Created here, so that only we can read it, whatever the umask is.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            make_durable([self._path.parent])  # SQLite makes the content durable, but not the name
        except OSError as error:
            raise ConfigError(f"can't use the ledger {self._path}: {error.strerror}") from None

    def take_ids(self, connection: Connection, count: int) -> list[int]:
        """Return ids that no intent ever had, in rising order."""
        if self._last_id is None:
            self._last_id = connection.execute(_LAST_ID).scalar() or 0
        first = self._last_id + 1
        self._last_id += count
        return list(range(first, first + count))

    def forget_ids(self) -> None:
        """Do nothing: the next ids are above all existing ones anyway."""

    def recorded(self, certificates: int) -> None:
        """Note the number of certificates that were recorded."""
        if self._checkpointer is None:
            self._checkpointer = Checkpointer(self._path)
        self._checkpointer.wrote(certificates)

    def tend(self, connection: Connection) -> None:
        """Do nothing: SQLite needs no statistics for our look-ups."""

    def close(self) -> None:
        """Close the file, and release the lock."""
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None
        self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


_LAST_ID: Final = select(func.max(intents.c.id))


def lock(path: Path) -> int:
    """Lock the path of a ledger for this process; return the descriptor that holds the lock.

    Raises:
        ConfigError: another process holds it, or the lock file can't be created.
    """
    try:
        held = open_beside(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise ConfigError(f"can't use the ledger {path}: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ConfigError(
            f"another daemon holds the ledger {path}",
            hint="Only one daemon can use an SQLite ledger. Stop the other one, or give this one its own.",
        ) from None
    return held


def open_engine(path: Path) -> Engine:
    """Return an engine for a ledger's file, with the settings that durability needs."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # we issue BEGIN ourselves, below
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Reads and the writes based on them must be atomic (I3): take the write lock at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
