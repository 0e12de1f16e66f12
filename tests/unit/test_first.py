"""The first items of a list are yielded, and nothing after them is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from otahsm.cli.first import first


@pytest.mark.parametrize(("count", "yielded"), [(1, 1), (4, 4), (5, 5), (6, 5), (None, 5)])
async def test_so_many_are_yielded_and_read(count: int | None, yielded: int) -> None:
    read: list[int] = []
    begun: list[int] = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            for number in range(5):
                read.append(number)
                yield number
        finally:
            read.append(-1)

    taken = first(items(), count, lambda: begun.append(len(read)))
    assert [item async for item in taken] == list(range(yielded))
    assert begun == [1]  # when the first one was read
    assert read == [*range(yielded), -1]  # and nobody waits for more
