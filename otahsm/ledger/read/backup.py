"""Consistent copies of an SQLite ledger, even while a daemon is writing it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerDamagedError, LedgerUnavailableError
from otahsm.ledger.db.failures import failure_of
from otahsm.ledger.db.read_only import connect_read_only
from otahsm.ledger.db.sqlite import lock
from otahsm.ledger.migrations import knows_version
from otahsm.system.durable import make_durable

# Cheap to compute for source and copy, and different if rows are missing.
_MARKS = (
    "SELECT (SELECT count(*) FROM intents), (SELECT max(id) FROM intents),"
    " (SELECT max(intent_id) FROM certificates), (SELECT version_num FROM alembic_version)"
)


class Copy(NamedTuple):
    """The content of a copy.

    Attributes:
        certificates, void, open: their numbers.
        newest_at: when the newest certificate was recorded, in microseconds since 1970; None for none.
        octets: the size of the file.
    """

    certificates: int
    void: int
    open: int
    newest_at: int | None
    octets: int


def path_of(config: LedgerConfig) -> Path:
    """Return the ledger's file. Raises ConfigError: it is in PostgreSQL, which has its own tools."""
    if config.path is None:
        raise ConfigError(
            "the ledger is in PostgreSQL, which is backed up and restored with its own tools",
            hint="Use base backups and archived logs (pgBackRest, pg_basebackup), or pg_dump.",
        )
    return config.path


def copy_ledger(source: Path, target: Path) -> Copy:
    """Copy a snapshot of a ledger into an empty file, durably, and verify the copy.

    It contains everything that was committed before this was called. The source can be written meanwhile; its
    write-ahead log grows until the copy is complete. The copy is a single file, not in WAL mode, so that it
    can be read from read-only media.

    Raises:
        ConfigError: the source is not a ledger, or from a newer version.
        LedgerUnavailableError: a disk failed or is full, or the copy is incomplete.
    """
    try:
        with closing(_opened(source)) as origin:
            marks = _marks_of(source, origin)
            with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                origin.backup(copy)  # in one step: the moment of the transaction
                copy.execute("PRAGMA journal_mode = DELETE")
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            found = _check(copy, marks, source)
        make_durable([target])
    except (sqlite3.Error, OSError) as error:
        raise failure_of(f"can't copy {source}", error) from error
    return found._replace(octets=target.stat().st_size)


@contextmanager
def vacant(path: Path) -> Iterator[None]:
    """Lock the path of a ledger while one is put there.

    Raises:
        ConfigError: there is a ledger or one of its files already, or a daemon uses the path.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = lock(path)
    try:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
            if path.with_name(name).exists():
                raise ConfigError(
                    f"{path.with_name(name)} exists; nothing was changed",
                    hint="Move it and its -wal and -shm files away together, and keep them.",
                )
        yield
    finally:
        os.close(held)


def _opened(source: Path) -> sqlite3.Connection:
    """Open a snapshot of a ledger."""
    origin: sqlite3.Connection | None = None
    try:
        origin = connect_read_only(source)
        origin.execute("BEGIN")
        origin.execute(_MARKS).fetchone()
    except sqlite3.Error as error:
        if origin is not None:
            origin.close()
        raise ConfigError(
            f"{source} is not a readable ledger: {error}",
            hint="Check the path, and that the file is complete. Nothing was written.",
        ) from error
    return origin


def _marks_of(source: Path, origin: sqlite3.Connection) -> tuple[object, ...]:
    marks: tuple[object, ...] = origin.execute(_MARKS).fetchone()
    if not knows_version(str(marks[-1])):
        raise ConfigError(
            f"the ledger {source} has the unknown schema {marks[-1]}",
            hint="A newer otahsm created it: use that version, or a newer one.",
        )
    return marks


def _check(copy: sqlite3.Connection, marks: tuple[object, ...], source: Path) -> Copy:
    complaints = [text for (text,) in copy.execute("PRAGMA integrity_check(10)") if text != "ok"]
    complaints += [
        f"{table} {row}" for table, row, *_ in copy.execute("PRAGMA foreign_key_check").fetchmany(10)
    ]
    if complaints:
        raise LedgerDamagedError(f"{source} is damaged: {'; '.join(complaints)}")
    if copy.execute(_MARKS).fetchone() != marks:
        raise LedgerUnavailableError(
            f"the copy of {source} is incomplete: it lacks rows",
            hint="If this happens again, ledger or disk are damaged: stop the daemon, and keep all files.",
        )
    (certificates,) = copy.execute("SELECT count(*) FROM certificates").fetchone()
    (void,) = copy.execute("SELECT count(*) FROM intents WHERE void_reason IS NOT NULL").fetchone()
    newest = copy.execute("SELECT recorded_at FROM certificates ORDER BY intent_id DESC LIMIT 1").fetchone()
    (intents, *_) = copy.execute(_MARKS).fetchone()
    return Copy(certificates, void, intents - void - certificates, newest and newest[0], 0)
