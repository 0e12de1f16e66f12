"""Translates errors of the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from otahsm.errors import LedgerDamagedError, LedgerUnavailableError

_PRIMARY: Final = 0xFF  # an extended result code has the primary one in its lowest octet
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def cause_of(error: BaseException | None) -> str:
    """Return the database's error message, in one line, without the statement and SQLAlchemy's remarks."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split())


def failure_of(what: str, error: Exception) -> LedgerUnavailableError:
    """Return our error for one of the database: what failed and why, and whether a retry may help."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0)  # errors that are not SQLite's own have none
    damaged = isinstance(cause, sqlite3.Error) and code & _PRIMARY in _DAMAGED
    return (LedgerDamagedError if damaged else LedgerUnavailableError)(f"{what}: {cause_of(error)}")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise LedgerUnavailableError, with the name of the ledger, if the block can't read it."""
    try:
        yield
    except SQLAlchemyError as error:
        raise failure_of(f"can't read the ledger {name}", error) from error
