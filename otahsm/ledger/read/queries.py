"""Runs queries in a separate thread, one step at a time, so that issuance is not blocked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeVar

from otahsm.config import LedgerConfig
from otahsm.errors import RequestRefusedError
from otahsm.ledger.query_values import START, CountKey, Filter
from otahsm.ledger.read.reader import LedgerReader
from otahsm.system.turns import TurnThread

MAX_COUNTS: Final = 20_000

_Result = TypeVar("_Result")


class LedgerQueries:
    """Runs queries on the ledger. Every method raises LedgerUnavailableError if it can't be read.

    Queries share one connection, and clients take turns on it. A long query runs in steps, so that others can
    run in between.

    Args:
        config: the ledger.

    Raises:
        ConfigError: the configuration is invalid.
    """

    def __init__(self, config: LedgerConfig) -> None:
        self._reader = LedgerReader(config)
        self._thread = TurnThread("queries")

    async def ask(self, question: Callable[[LedgerReader], _Result]) -> _Result:
        """Run a query on the reader, in the thread."""
        return await self._thread.run(question, self._reader)

    async def count(self, criteria: Filter) -> dict[CountKey, int]:
        """Count all records in the period of a filter.

        Raises:
            RequestRefusedError: there are more than `MAX_COUNTS` counts.
        """
        counts: Counter[CountKey] = Counter()
        after: bytes | None = START
        while after is not None:
            part = await self.ask(lambda reader, after=after: reader.count(criteria, after))  # type: ignore[misc]
            counts.update(part.counts)
            after = part.next_after
            if len(counts) > MAX_COUNTS:
                raise RequestRefusedError(
                    "issued_after",
                    f"there would be more than {MAX_COUNTS} counts",
                    hint="Request a shorter period.",
                )
        return counts

    async def close(self) -> None:
        """Close the connection."""
        await self.ask(LedgerReader.close)
        self._thread.shutdown()
