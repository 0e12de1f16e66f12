"""Consistent snapshots of a ledger, without blocking the daemon that writes it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

from otahsm.config import LedgerConfig
from otahsm.errors import ConfigError, LedgerUnavailableError
from otahsm.ledger.db.failures import reading
from otahsm.ledger.db.postgres import engine_for
from otahsm.ledger.db.read_only import sqlite_reader
from otahsm.ledger.migrations import NEWEST, version_of


@contextmanager
def snapshot(config: LedgerConfig) -> Iterator[Connection]:
    """Open a consistent snapshot of a ledger, even while a daemon uses it.

    With SQLite, the write-ahead log can't be reset while this is open, and grows.

    Raises:
        ConfigError: there is no ledger, or it is from another version.
        LedgerUnavailableError: it can't be read.
    """
    name = str(config.path or config.url)
    require_file(config)
    engine = open_reader(config)
    try:
        with reading(name), engine.connect() as connection:
            version = version_of(connection)
            if version is None:
                raise ConfigError(
                    f"{name} is not a ledger: it has no table alembic_version",
                    hint="Check [ledger]. `otahsm serve` creates a ledger.",
                )
            if version != NEWEST:
                raise ConfigError(
                    f"the ledger {name} has the schema {version}, but this otahsm needs {NEWEST}",
                    hint="Start `otahsm serve` once to update it, or use the version of otahsm that created"
                    " it.",
                )
            yield connection
    finally:
        engine.dispose()


def has_file(config: LedgerConfig) -> bool:
    """Return whether there is a ledger's file; a server is asked when it is opened.

    Raises:
        LedgerUnavailableError: this user may not look.
    """
    try:
        return config.path is None or stat.S_ISREG(config.path.stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LedgerUnavailableError(
            f"can't read {config.path}: {error.strerror}",
            hint="Run this as root, or as a user who can read it.",
        ) from None


def require_file(config: LedgerConfig) -> None:
    """Raise ConfigError if there is no ledger's file, LedgerUnavailableError if this user may not look."""
    if not has_file(config):
        raise ConfigError(
            f"there is no ledger {config.path}",
            hint="Check [ledger] path, and that this is the right machine.",
        )


def open_reader(config: LedgerConfig) -> Engine:
    """Return an engine for consistent snapshots of an existing ledger. Raises ConfigError as `engine_for`."""
    if config.url is not None:
        engine = engine_for(config.url, config.password_file)
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    assert config.path is not None  # noqa: S101 - the configuration was checked
    engine = sqlite_reader(config.path)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        # One text that somebody wrote and that is not UTF-8 must not hide all rows.
        connection.text_factory = lambda text: text.decode(errors="backslashreplace")

    return engine
