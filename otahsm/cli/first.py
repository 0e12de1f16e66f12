"""The first items of a list that comes from a daemon page by page."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

_Item = TypeVar("_Item")


async def first(
    items: AsyncGenerator[_Item, None], count: int | None, begin: Callable[[], object] | None = None
) -> AsyncGenerator[_Item, None]:
    """Yield the first items, at least one, or all for None; no more are read than are yielded.

    The list is closed when its items have been yielded. `begin` prints what precedes them, such as a heading:
    it is called when the daemon has answered.
    """
    yielded = 0
    async with contextlib.aclosing(items):
        async for item in items:
            if begin and not yielded:
                begin()
            yield item
            yielded += 1
            if yielded == count:
                return
    if begin and not yielded:
        begin()
