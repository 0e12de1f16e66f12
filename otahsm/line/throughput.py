"""A plot of certificates over time, as self-contained SVG."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from otahsm.templates import counted

_WIDTH: Final = 720
_HEIGHT: Final = 200
_LEFT: Final = 64
_BOTTOM: Final = 28
_TOP: Final = 12
_BARS: Final = 120
_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def bucketed(seconds: Mapping[int, int]) -> tuple[int, list[tuple[int, int]]]:
    """Put counts per second into at most 120 buckets of equal, round width.

    Args:
        seconds: counts by second of the Unix epoch; not empty.

    Returns:
        The width in seconds, and every bucket from the first to the last: its start, and its count.
    """
    first, last = min(seconds), max(seconds)
    days = 86400 * (1 + (last - first) // (86400 * _BARS))
    width = next((step for step in _STEPS if (last - first) < step * (_BARS - 1)), days)
    begin = first - first % width
    buckets = dict.fromkeys(range(begin, last + 1, width), 0)
    for second, count in seconds.items():
        buckets[second - second % width] += count
    return width, list(buckets.items())


def throughput_svg(seconds: Mapping[int, int]) -> str:
    """Return a plot of certificates per second over time; empty if there are none.

    Args:
        seconds: counts by second of the Unix epoch.
    """
    if not seconds:
        return ""
    width, buckets = bucketed(seconds)
    rates = [count / width for _, count in buckets]
    most = max(rates)
    room_x, room_y = _WIDTH - _LEFT, _HEIGHT - _TOP - _BOTTOM
    each = room_x / len(buckets)
    bars = "".join(
        f'<rect x="{_LEFT + number * each:.1f}" y="{_TOP + room_y * (1 - rate / most):.1f}"'
        f' width="{max(each - 1, 0.5):.1f}" height="{room_y * rate / most:.1f}">'
        f"<title>{_clock(second)}: {counted(count, 'certificate')}</title></rect>"
        for number, ((second, count), rate) in enumerate(zip(buckets, rates, strict=True))
    )
    base = _TOP + room_y
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="certificates a second over time">'
        f'<g class="bars">{bars}</g>'
        f'<line x1="{_LEFT}" y1="{base}" x2="{_WIDTH}" y2="{base}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 10}" text-anchor="end">{most:,.1f}/s</text>'
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{base + 18}">{_clock(buckets[0][0])}</text>'
        f'<text x="{_WIDTH}" y="{base + 18}" text-anchor="end">{_clock(buckets[-1][0] + width)} UTC</text>'
        "</svg>"
    )


def _clock(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
