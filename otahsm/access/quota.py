"""Quotas: how many of the certificates that a client requests it gets now, given how many it had before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from otahsm.templates import counted

_SECOND: Final = 1_000_000  # all times are in microseconds since the Unix epoch
_DAY: Final = 24 * 3600 * _SECOND
_SKEW: Final = 600 * _SECOND  # between the clocks of two replicas; what is later shows that a clock was ahead


class Quotas(NamedTuple):
    """How many certificates a client may have issued; None for no limit."""

    per_second: int | None = None
    per_day: int | None = None
    total: int | None = None


class Use(NamedTuple):
    """How many certificates a client has had.

    Attributes:
        taken: in total.
        day: the last day on which it had any, in days since the Unix epoch, UTC.
        day_taken: on that day.
        rate_full_at: when the whole quota per second is available again, for a burst of one second's worth.
            (In the generic cell rate algorithm, ITU-T I.371, it is the theoretical arrival time.)
    """

    taken: int = 0
    day: int = 0
    day_taken: int = 0
    rate_full_at: int = 0


class Share(NamedTuple):
    """How many of the requested certificates are granted.

    Attributes:
        granted: how many.
        use: how many the client has had then.
        why: the quota that the rest exceeds; empty if there is no rest.
        again_at: when some of the rest will be granted, in microseconds since the Unix epoch; None for never.
    """

    granted: int
    use: Use
    why: str = ""
    again_at: int | None = None


def share_of(quotas: Quotas, use: Use, requested: int, now: int) -> Share:
    """Grant as many certificates as the quotas allow.

    Args:
        quotas: the client's quotas.
        use: how many it had before.
        requested: at least 1.
        now: microseconds since the Unix epoch.
    """
    day = max(now // _DAY, use.day)  # the clocks of two replicas differ a little
    today = use.day_taken if day == use.day else 0
    full_at = max(use.rate_full_at, now)
    limits: list[tuple[int, str, int | None]] = []
    if quotas.total is not None:
        limits.append((quotas.total - use.taken, f"quota of {counted(quotas.total, 'certificate')}", None))
    if quotas.per_day is not None:
        tomorrow = (day + 1) * _DAY
        why = f"quota of {counted(quotas.per_day, 'certificate')} a day"
        limits.append((quotas.per_day - today, why, tomorrow))
    if quotas.per_second is not None:
        free_now = _at_once(quotas.per_second, use, now)
        limits.append((free_now, f"quota of {counted(quotas.per_second, 'certificate')} a second", 0))
    free, why, again_at = min(limits, key=lambda limit: limit[0], default=(requested, "", None))
    granted = max(0, min(requested, free))
    if quotas.per_second is not None:
        full_at += -(-granted * _SECOND // quotas.per_second)  # rounded up
        if again_at == 0:  # when all of the rest, or a second's worth of it, will be granted
            rest = min(requested - granted, quotas.per_second)
            again_at = full_at - _SECOND + -(-rest * _SECOND // quotas.per_second)
    had = Use(use.taken + granted, day, today + granted, full_at if quotas.per_second else use.rate_full_at)
    if granted == requested:
        return Share(granted, had)
    return Share(granted, had, why, again_at)


def corrected(use: Use, now: int) -> Use:
    """Return `use` without what a clock that was ahead left in it, which would close a quota until then.

    What was counted on that day counts today, so that nobody gets more.

    Args:
        use: as it is in the ledger.
        now: microseconds since the Unix epoch.
    """
    day = now // _DAY if use.day > (now + _SKEW) // _DAY else use.day
    full_at = now if use.rate_full_at > now + _SECOND + _SKEW else use.rate_full_at
    return use._replace(day=day, rate_full_at=full_at)


def reset(use: Use, now: int) -> Use:
    """Return `use` as if nothing had been issued today or this second; what was issued in total stays."""
    return use._replace(day=day_of(now), day_taken=0, rate_full_at=0)


def today(use: Use, now: int) -> int:
    """Return how many certificates were issued today, UTC."""
    return use.day_taken if use.day >= day_of(now) else 0


def at_once(quotas: Quotas, use: Use, now: int) -> int | None:
    """Return how many certificates the quota per second allows now; None without one."""
    return None if quotas.per_second is None else _at_once(quotas.per_second, use, now)


def _at_once(per_second: int, use: Use, now: int) -> int:
    return (now + _SECOND - max(use.rate_full_at, now)) * per_second // _SECOND


def sum_of(uses: Sequence[Use]) -> Use:
    """Return the use of a client that is counted in several rows, as it had other names before."""
    day = max(use.day for use in uses)
    return Use(
        sum(use.taken for use in uses),
        day,
        sum(use.day_taken for use in uses if use.day == day),
        max(use.rate_full_at for use in uses),
    )


def own_part(share: Share, own: Use) -> Use:
    """Return the use of one row of several after a share of their sum was granted, which is counted in it."""
    today = own.day_taken if own.day == share.use.day else 0
    taken = own.taken + share.granted
    return Use(taken, share.use.day, today + share.granted, share.use.rate_full_at)


def given_back(use: Use, count: int, day: int) -> Use:
    """Return `use` without `count` certificates of a day that were not issued; the rate stays as it is."""
    day_taken = use.day_taken - count if day == use.day else use.day_taken
    return use._replace(taken=max(0, use.taken - count), day_taken=max(0, day_taken))


def day_of(moment: int) -> int:
    """Return the day, UTC, in days since the Unix epoch, of a moment in microseconds."""
    return moment // _DAY


def come_back(why: str, again_at: int | None, now: int) -> tuple[str, float | None]:
    """Return when a client that has used up a quota can try again.

    Returns:
        The text after "has used its", and the number of seconds to wait; None for ever.
    """
    if again_at is None:
        return f"{why}, and can't get more", None
    seconds = max(again_at - now, 0) / _SECOND
    if seconds < 2:  # noqa: PLR2004 - nobody reads a time of day for that
        return f"{why}; more will be available in {seconds:.2f} s", seconds
    moment = datetime.fromtimestamp(again_at // _SECOND, UTC)
    return f"{why}; more will be available at {moment:%Y-%m-%d %H:%M:%S} UTC", seconds
