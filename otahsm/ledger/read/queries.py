"""The ledger for queries: in a thread of its own, one step at a time, so that issuing is not held up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from otahsm.access import Denied
from otahsm.config import LedgerConfig
from otahsm.errors import RequestRefusedError
from otahsm.ledger.entries import START, Entry, EventFilter, EventPage, Filter, Group, Page
from otahsm.ledger.read.reader import LedgerReader
from otahsm.ledger.records import BatchState
from otahsm.pki import SerialNumber

MAX_COUNTS: Final = 20_000

_Result = TypeVar("_Result")


class LedgerQueries:
    """Answers questions about the ledger. Every method raises LedgerUnavailableError if it can't be read.

    Questions wait for each other: there is one connection. A long one is asked in steps, and others get
    their turn between them.

    Args:
        config: where the ledger is.

    Raises:
        ConfigError: the configuration is wrong.
    """

    def __init__(self, config: LedgerConfig) -> None:
        self._reader = LedgerReader(config)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="queries")

    async def by_serial(self, serial: SerialNumber) -> Entry | None:
        """Return the entry with a serial number."""
        return await self._ask(lambda: self._reader.by_serial(serial))

    async def by_device(self, device_id: str, profile: str) -> Entry | None:
        """Return the entry that a device has under a profile, if one is not voided."""
        return await self._ask(lambda: self._reader.by_device(device_id, profile))

    async def page(self, wanted: Filter, after: bytes, *, size: int, full: bool) -> Page:
        """Return the entries that come after a key: see `LedgerReader.page`."""
        return await self._ask(lambda: self._reader.page(wanted, after, size=size, full=full))

    async def batches(self, after: int, size: int, name: str = "") -> list[BatchState]:
        """Return batches and how far they are: see `LedgerReader.batches`."""
        return await self._ask(lambda: self._reader.batches(after, size, name))

    async def events(self, wanted: EventFilter, after: int, size: int) -> EventPage:
        """Return events with ids above one: see `LedgerReader.events`."""
        return await self._ask(lambda: self._reader.events(wanted, after, size))

    async def denied(self) -> list[Denied]:
        """Return everybody who is cut off."""
        return await self._ask(self._reader.denied)

    async def count(self, wanted: Filter) -> dict[Group, int]:
        """Count all entries in the time of a filter.

        Raises:
            RequestRefusedError: there are more than `MAX_COUNTS` groups.
        """
        counts: Counter[Group] = Counter()
        after: bytes | None = START
        while after is not None:
            part = await self._ask(lambda after=after: self._reader.count(wanted, after))  # type: ignore[misc]
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
        await self._ask(self._reader.close)
        self._thread.shutdown()

    async def _ask(self, question: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, question)
