"""Times in a daemon's messages."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.errors import OtahsmError

_HINT: Final = "Check whether the daemon is newer than this client. If not, it may have been taken over."


def moment_of(time: Timestamp) -> datetime:
    """Return a time, in UTC. Raises OtahsmError: it is not one."""
    try:
        return time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise OtahsmError("the daemon returned a time that does not exist", hint=_HINT) from None


def day_of(year: int, month: int, day: int) -> date:
    """Return a day. Raises OtahsmError: it is not one."""
    try:
        return date(year, month, day)
    except (ValueError, OverflowError):
        raise OtahsmError("the daemon returned a day that does not exist", hint=_HINT) from None
