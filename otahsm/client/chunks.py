"""Splits a source of requests into chunks, without delaying requests from a slow source."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from itertools import islice
from typing import Final, TypeVar

_Item = TypeVar("_Item")

_LINGER: Final = 0.002  # seconds that a chunk waits for more items from an asynchronous source


async def chunks_of(
    source: Iterable[_Item] | AsyncIterable[_Item], size: int
) -> AsyncGenerator[list[_Item], None]:
    """Yield lists of 1 to `size` items, in order.

    A plain iterable is advanced in a thread, so that slow work, such as generating keys, doesn't block the
    event loop. Items of an asynchronous one are not delayed until a list is full.
    """
    if isinstance(source, AsyncIterable):
        async with contextlib.aclosing(_from_asynchronous(source, size)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    iterator = iter(source)
    while chunk := await asyncio.to_thread(lambda: list(islice(iterator, size))):
        yield chunk


async def _from_asynchronous(source: AsyncIterable[_Item], size: int) -> AsyncGenerator[list[_Item], None]:
    iterator = aiter(source)
    chunk: list[_Item] = []
    coming: asyncio.Future[_Item] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(anext(iterator))
            await asyncio.wait({coming}, timeout=_LINGER if chunk else None)
            if coming.done():
                try:
                    chunk.append(coming.result())
                except StopAsyncIteration:
                    break
                coming = None
            if len(chunk) == size or coming is not None:
                yield chunk
                chunk = []
        if chunk:
            yield chunk
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
