"""Times, as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_microseconds(microseconds: int) -> datetime:
    """Return the time that is so many microseconds after 1970, as the ledger stores it."""
    return _EPOCH + timedelta(microseconds=microseconds)
