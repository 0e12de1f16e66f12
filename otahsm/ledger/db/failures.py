"""How what a database says becomes an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from otahsm.errors import LedgerUnavailableError


def cause_of(error: BaseException | None) -> str:
    """Say what the database said, in one line, without the statement and SQLAlchemy's remarks."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split())


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Read a ledger; raises LedgerUnavailableError, with its name, if that can't be done."""
    try:
        yield
    except SQLAlchemyError as error:
        raise LedgerUnavailableError(f"the ledger {name} can't be read: {cause_of(error)}") from error
