"""Fixtures: an empty ledger that is open, and one who reads it, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from otahsm.ledger import Ledger, LedgerReader

from support.homes import Home, ledger_in


@pytest.fixture
async def ledger(home: Home) -> AsyncIterator[Ledger]:
    """A ledger with nothing in it."""
    ledger = ledger_in(home)
    assert await ledger.open() == 0
    yield ledger
    await ledger.close()


@pytest.fixture
def reader(home: Home, ledger: Ledger) -> Iterator[LedgerReader]:  # noqa: ARG001 - it is there then
    """Reads that ledger."""
    reader = LedgerReader(home.config)
    reader.check()
    yield reader
    reader.close()
