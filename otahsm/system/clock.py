"""The time of day. It is passed as a `Clock`, so that tests can use their own.

Durations are measured with `time.monotonic` instead, which never jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""Returns the time of day, with a time zone."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """Return the time of day of this machine, in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Write a time for programs: in UTC, to the microsecond if it has any, as in `2026-11-30T20:05:12Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def from_microseconds(count: int) -> datetime:
    """Return the time that is this number of microseconds after the Unix epoch, in UTC."""
    return _EPOCH + timedelta(microseconds=count)


def microseconds(moment: datetime) -> int:
    """Return a time in microseconds since the Unix epoch, as in the ledger."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
