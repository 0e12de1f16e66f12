"""Read-only connections, for queries."""

from __future__ import annotations

import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from otahsm.config import LedgerConfig
from otahsm.ledger.db.postgres import configure, engine_for

_SQLITE: Final = (
    "PRAGMA query_only = ON",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA cache_size = -16384",  # KiB
)
_POSTGRESQL: Final = (
    "SET default_transaction_read_only = on",
    "SET default_transaction_isolation = 'repeatable read'",  # a transaction sees one snapshot
    "SET statement_timeout = '60s'",
    # As for the writer: without statistics, the planner scans a table, or scans and sorts an index.
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET jit = off",
)


def read_only_engine(config: LedgerConfig) -> Engine:
    """Return an engine that connects on first use.

    Each transaction sees a consistent snapshot. Readers and writers don't block each other. SQLite can't
    reset its write-ahead log while a transaction is open, so transactions must be short.

    Raises:
        ConfigError: the URL or the password file is invalid, or psycopg is not installed.
    """
    if config.url is not None:
        engine = engine_for(config.url, config.password_file)
        event.listen(engine, "connect", partial(configure, _POSTGRESQL))
        return engine
    assert config.path is not None  # noqa: S101 - the configuration was checked
    return sqlite_reader(config.path)


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open an existing SQLite file for reading. Raises sqlite3.Error.

    If no file can be created beside it, as on read-only media, it can be read anyway unless a daemon has it
    open (there is a write-ahead log then).
    """
    path = path.absolute()
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    mode = "mode=ro&immutable=1" if alone else "mode=ro"
    return sqlite3.connect(
        f"file:{quote(str(path))}?{mode}", uri=True, check_same_thread=False, isolation_level=None
    )


def sqlite_reader(path: Path) -> Engine:
    """Return an engine for an existing file. Its connections may be used in any thread, one at a time."""
    engine = create_engine("sqlite://", creator=lambda: connect_read_only(path), poolclass=QueuePool)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        for pragma in _SQLITE:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")  # the driver would only do this before writes

    return engine
