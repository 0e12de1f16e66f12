"""A connection that reads beside the writer: who asks for a proof holds up nobody who issues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.db.database import Database
from otahsm.ledger.db.failures import reading

_Result = TypeVar("_Result")


class ReadConnection:
    """Asks an open ledger, in a thread of its own; each question sees one moment.

    A question that is asked after a write returned sees what was written: both databases show a transaction
    that begins all that was committed before.

    Args:
        database: where the ledger is.
    """

    def __init__(self, database: Database) -> None:
        self._name = database.name
        self._engine = database.open_reader()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="proofs")
        self._is_closed = False

    async def ask(self, question: Callable[[Connection], _Result]) -> _Result:
        """Have a function read. Raises LedgerUnavailableError: the ledger can't be read, or is closed."""
        if self._is_closed:
            raise LedgerUnavailableError("the ledger is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, question)

    async def close(self) -> None:
        """Let go of the connection."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
            self._thread.shutdown()

    def _read(self, question: Callable[[Connection], _Result]) -> _Result:
        with reading(self._name), self._engine.connect() as connection, connection.begin():
            return question(connection)
