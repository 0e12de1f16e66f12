"""The first items of a list are yielded, and nothing after them is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from otahsm.cli.first import first


@pytest.mark.parametrize(("count", "yielded"), [(1, 1), (4, 4), (5, 5), (6, 5), (None, 5)])
async def test_so_many_are_yielded_and_read(count: int | None, yielded: int) -> None:
    read: list[int] = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            for number in range(5):
                read.append(number)
                yield number
        finally:
            read.append(-1)

    assert [item async for item in first(items(), count)] == list(range(yielded))
    assert read == [*range(yielded), -1]  # and nobody waits for more
