"""The newest items of a history are found without reading it from its beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from otahsm.cli.newest import newest_since

NOW = datetime(2026, 11, 30, 20, tzinfo=UTC)


class History:
    """Items an hour apart, as many as there are; it counts how many were read."""

    def __init__(self, hours: int) -> None:
        self.items = [NOW - timedelta(hours=hour, minutes=30) for hour in reversed(range(hours))]
        self.read = 0

    async def since(self, after: datetime | None) -> AsyncIterator[datetime]:
        for item in self.items:
            if after is None or item >= after:
                self.read += 1
                yield item


@pytest.mark.parametrize("count", [1, 2, 3, 17, 100])
async def test_the_newest_come_first_and_little_more_is_read(count: int) -> None:
    history = History(10_000)
    assert await newest_since(history.since, NOW, None, count) == history.items[: -count - 1 : -1]
    assert history.read < 8 * count


async def test_a_history_that_is_shorter_comes_whole() -> None:
    history = History(5)
    assert await newest_since(history.since, NOW, None, 20) == history.items[::-1]


async def test_nothing_before_the_start_is_shown() -> None:
    history = History(100)
    found = await newest_since(history.since, NOW, NOW - timedelta(hours=3), 20)
    assert found == history.items[:-4:-1]
