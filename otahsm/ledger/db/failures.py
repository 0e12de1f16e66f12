"""Translates errors of the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from otahsm.errors import LedgerUnavailableError


def cause_of(error: BaseException | None) -> str:
    """Return the database's error message, in one line, without the statement and SQLAlchemy's remarks."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split())


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise LedgerUnavailableError, with the name of the ledger, if the block can't read it."""
    try:
        yield
    except SQLAlchemyError as error:
        raise LedgerUnavailableError(f"can't read the ledger {name}: {cause_of(error)}") from error
