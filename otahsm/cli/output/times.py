"""Times, as people read them: `2026-11-30 20:05:12 UTC`, everywhere."""

from __future__ import annotations

from datetime import UTC, datetime


def show_time(moment: datetime | None) -> str:
    """Return a time in UTC, to the second; empty for None."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
