"""Quotas: how much of what a client wants it may have now, as a function of what it has had."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

_SECOND: Final = 1_000_000  # all times are in microseconds since the Unix epoch
_DAY: Final = 24 * 3600 * _SECOND


class Quotas(NamedTuple):
    """How many certificates a client may have issued; None: as many as it likes."""

    per_second: int | None = None
    per_day: int | None = None
    total: int | None = None


class Use(NamedTuple):
    """What a client has had.

    Attributes:
        taken: in all.
        day: the last day on which it had any, in days since the Unix epoch, UTC.
        day_taken: on that day.
        rate_full_at: when a quota per second is all there again, for a burst of one second's worth. (In the
            generic cell rate algorithm, ITU-T I.371, it is the theoretical arrival time.)
    """

    taken: int = 0
    day: int = 0
    day_taken: int = 0
    rate_full_at: int = 0


class Share(NamedTuple):
    """How many of what was wanted are granted, and what has been had then.

    Attributes:
        why: which quota the rest is over; empty if there is no rest.
        again_at: when some of the rest may be had, in microseconds since the Unix epoch; None: never.
    """

    granted: int
    use: Use
    why: str = ""
    again_at: int | None = None


def share_of(quotas: Quotas, use: Use, wanted: int, now: int) -> Share:
    """Grant as many as the quotas leave.

    Args:
        quotas: what is allowed.
        use: what was had before.
        wanted: at least 1.
        now: microseconds since the Unix epoch.
    """
    day = max(now // _DAY, use.day)  # replicas' clocks are not quite the same
    today = use.day_taken if day == use.day else 0
    full_at = max(use.rate_full_at, now)
    limits: list[tuple[int, str, int | None]] = []
    if quotas.total is not None:
        limits.append((quotas.total - use.taken, f"all of its {quotas.total:,} certificates", None))
    if quotas.per_day is not None:
        tomorrow = (day + 1) * _DAY
        limits.append((quotas.per_day - today, f"its {quotas.per_day:,} certificates of today", tomorrow))
    if quotas.per_second is not None:
        at_once = (now + _SECOND - full_at) * quotas.per_second // _SECOND
        limits.append((at_once, f"its {quotas.per_second:,} certificates a second", 0))
    free, why, again_at = min(limits, key=lambda limit: limit[0], default=(wanted, "", None))
    granted = max(0, min(wanted, free))
    if quotas.per_second is not None:
        full_at += -(-granted * _SECOND // quotas.per_second)  # rounded up
        if again_at == 0:  # when all of the rest, or of the next second's, can be had
            rest = min(wanted - granted, quotas.per_second)
            again_at = full_at - _SECOND + -(-rest * _SECOND // quotas.per_second)
    had = Use(use.taken + granted, day, today + granted, full_at if quotas.per_second else use.rate_full_at)
    if granted == wanted:
        return Share(granted, had)
    return Share(granted, had, why, again_at)


def given_back(use: Use, count: int, day: int) -> Use:
    """Take back what came to nothing, of a day; what was had a second ago stays so."""
    day_taken = use.day_taken - count if day == use.day else use.day_taken
    return use._replace(taken=max(0, use.taken - count), day_taken=max(0, day_taken))


def day_of(moment: int) -> int:
    """Return the day, UTC, in days since the Unix epoch, of a moment in microseconds."""
    return moment // _DAY


def come_back(why: str, again_at: int | None, now: int) -> tuple[str, float | None]:
    """Say when to come back.

    Returns:
        What to say after "has had", and in how many seconds to ask again; None: never.
    """
    if again_at is None:
        return f"{why}: it gets no more", None
    seconds = max(again_at - now, 0) / _SECOND
    if seconds < 2:  # noqa: PLR2004 - nobody reads a time of day for that
        return f"{why}: there are more in {seconds:.2f} s", seconds
    moment = datetime.fromtimestamp(again_at // _SECOND, UTC)
    return f"{why}: there are more from {moment:%Y-%m-%d %H:%M:%S} UTC on", seconds
