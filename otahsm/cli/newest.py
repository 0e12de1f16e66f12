"""Finds the newest items of histories that a daemon lists oldest first, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable
from datetime import datetime, timedelta
from typing import Final, TypeVar

_Item = TypeVar("_Item")

_FIRST_SPAN: Final = timedelta(hours=1)
_WIDER: Final = 4
_LONGEST_SPAN: Final = timedelta(days=3650)


async def newest(items: AsyncIterable[_Item], count: int) -> list[_Item]:
    """Return the last `count` of items that come oldest first, newest first."""
    kept: deque[_Item] = deque(maxlen=count)
    async for item in items:
        kept.append(item)
    return list(reversed(kept))


async def newest_since(
    read: Callable[[datetime | None], AsyncIterable[_Item]], end: datetime, start: datetime | None, count: int
) -> list[_Item]:
    """Return the newest items, newest first, without reading a long history from its beginning.

    Args:
        read: yields the items at or after a time, oldest first; all for None.
        end: about when the newest item may be.
        start: the earliest time that is wanted; None for no limit.
        count: how many items.
    """
    span = _FIRST_SPAN
    while span < _LONGEST_SPAN and (start is None or end - span > start):
        found = await newest(read(end - span), count)
        if len(found) == count:
            return found
        span *= _WIDER
    return await newest(read(start), count)
