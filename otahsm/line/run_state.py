"""The state file of a devices folder: its runs, their devices and outcomes, and the outbox of registrations.

It is an SQLite file beside the device folders, `.otahsm.sqlite3`, which several commands may have open. A
device folder is complete before its outcome is written, and is authoritative: so outcomes need no separate
flush, and outcomes lost in a power cut are recovered from the folders. Runs and registrations are durable
when the call returns.

Times are microseconds since the Unix epoch, in UTC.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from otahsm.errors import FolderError
from otahsm.pki.serial import SerialNumber
from otahsm.system.durable import open_beside
from otahsm.system.owners import check_owner

RUN_STATE: Final = ".otahsm.sqlite3"
_VERSION: Final = 1
_WAIT_SECONDS: Final = 30.0
_SCHEMA: Final = """
-- The runs of commands. The request identifies a run until it has ended.
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    asked TEXT NOT NULL,        -- the request: a JSON array of words
    drawn INTEGER NOT NULL,     -- 1: its device ids were generated
    begun_at INTEGER NOT NULL,
    ended_at INTEGER            -- every device has its certificate, or it was abandoned
);
CREATE UNIQUE INDEX ix_orders_open ON orders (asked) WHERE ended_at IS NULL;

-- The devices of runs. A device that made its own CSR is added with its outcome.
CREATE TABLE devices (
    order_id INTEGER NOT NULL,
    name TEXT NOT NULL,         -- the device id, or the SHA-256 of the device's own CSR
    number INTEGER NOT NULL,    -- its number in the run, from 1
    attributes TEXT NOT NULL,   -- a JSON object of strings
    state TEXT NOT NULL,        -- 'asked', 'issued', 'refused'
    settled_at INTEGER,
    device_id TEXT,             -- once it is known
    serial TEXT,                -- hexadecimal, if the certificate was issued in this run
    code TEXT, reason TEXT, message TEXT, hint TEXT,
    PRIMARY KEY (order_id, name)
) WITHOUT ROWID;
CREATE UNIQUE INDEX ix_devices_number ON devices (order_id, number);

-- The outbox: certificates to register with a backend, and what a registration needs.
CREATE TABLE registrations (
    id INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL,
    serial TEXT NOT NULL,       -- hexadecimal
    profile TEXT NOT NULL,
    attributes TEXT NOT NULL,
    certificate BLOB,           -- DER; NULL when it is done
    state TEXT NOT NULL,        -- 'waiting', 'done', 'failed'
    attempts INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER NOT NULL,    -- not before then
    claimed INTEGER NOT NULL DEFAULT 0,  -- 1: a command is sending it, and owns it until due_at
    answered_at INTEGER,
    answer TEXT                 -- the backend's last answer, human-readable
);
CREATE UNIQUE INDEX ix_registrations_certificate ON registrations (device_id, serial);
CREATE INDEX ix_registrations_due ON registrations (due_at) WHERE state = 'waiting';
"""
# Added to files of version 1 without a new version: an older otahsm ignores it.
_ANCHORS: Final = """
-- The fleet roots that the daemon named when a run began, if the configuration names none.
CREATE TABLE IF NOT EXISTS anchors (
    order_id INTEGER NOT NULL,
    certificate BLOB NOT NULL,  -- DER
    PRIMARY KEY (order_id, certificate)
) WITHOUT ROWID
"""


class RunState:
    """An open state file. It is thread-safe.

    Args:
        folder: the devices folder; it must exist.

    Raises:
        ConfigError: this is root, and the folder is another user's.
        FolderError: the file can't be read or written, is damaged, or from another version.
    """

    def __init__(self, folder: Path) -> None:
        check_owner(folder)
        self.path = folder / RUN_STATE
        self._lock = threading.RLock()
        try:  # SQLite would follow a link
            os.close(open_beside(self.path, os.O_RDWR | os.O_CREAT, 0o644))
        except OSError as error:
            raise FolderError(f"can't use {self.path}: {error.strerror}") from None
        with self._explained():
            self._connection = sqlite3.connect(
                self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._prepare()

    def _prepare(self) -> None:
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise FolderError(
                    f"{self.path} is from another version of otahsm: it has version {version}",
                    hint="Use the otahsm that created it, or give this one its own folder with --out.",
                )
            connection.execute(_ANCHORS)

    def close(self) -> None:
        """Close the file, and merge its write-ahead log."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Run the block in a transaction.

        Args:
            durable: whether to flush it to the disk.

        Raises:
            FolderError: the file can't be written.
        """
        with self._lock, self._explained():
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def read(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Return the rows of a query. Raises FolderError."""
        with self._lock, self._explained():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # for the caller to explain
        except sqlite3.OperationalError as error:
            raise FolderError(f"can't use {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise FolderError(
                f"{self.path} is damaged: {error}",
                hint="Move it away and run the command again. Complete device folders are left alone.",
            ) from error


def enter_registration(
    connection: sqlite3.Connection,
    device_id: str,
    serial: SerialNumber,
    profile: str,
    attributes: str,
    certificate: bytes,
    due_at: int,
) -> int:
    """Put a certificate into the outbox; return 1, or 0 if it is already there."""
    return connection.execute(
        "INSERT INTO registrations (device_id, serial, profile, attributes, certificate, state, due_at)"
        " VALUES (?, ?, ?, ?, ?, 'waiting', ?) ON CONFLICT DO NOTHING",
        (device_id, serial.hex(), profile, attributes, certificate, due_at),
    ).rowcount
