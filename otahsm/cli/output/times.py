"""Times, as people read them: `2026-11-30 20:05:12 UTC`, everywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def show_time(moment: datetime | None) -> str:
    """Return a time in UTC, to the second; empty for None."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def from_microseconds(microseconds: int) -> datetime:
    """Return the time that the ledger stores as this many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)
