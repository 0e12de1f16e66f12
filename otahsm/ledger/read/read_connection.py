"""A separate connection for reading, so that proofs don't block issuance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.db.database import Database
from otahsm.ledger.db.failures import reading
from otahsm.system.turns import TurnThread

_Result = TypeVar("_Result")


class ReadConnection:
    """Reads an open ledger in its own thread; each call sees a consistent snapshot. Clients take turns.

    A call after a write returned sees what was written: in both databases, a new transaction sees everything
    that was committed before.

    Args:
        database: the ledger's database.
    """

    def __init__(self, database: Database) -> None:
        self._name = database.name
        self._engine = database.open_reader()
        self._thread = TurnThread("proofs")
        self._is_closed = False

    async def ask(self, question: Callable[[Connection], _Result]) -> _Result:
        """Run a function that reads. Raises LedgerUnavailableError: the ledger is closed or unreadable."""
        if self._is_closed:
            raise LedgerUnavailableError("the ledger is closed")
        return await self._thread.run(self._read, question)

    async def close(self) -> None:
        """Close the connection."""
        if not self._is_closed:
            self._is_closed = True
            await self._thread.run(self._engine.dispose)
            self._thread.shutdown()

    def _read(self, question: Callable[[Connection], _Result]) -> _Result:
        with reading(self._name), self._engine.connect() as connection, connection.begin():
            return question(connection)
