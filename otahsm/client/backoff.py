"""Pauses between tries."""

from __future__ import annotations

import asyncio
import random
from typing import Final

FIRST_PAUSE: Final = 0.1  # seconds
LONGEST_PAUSE: Final = 5.0


class Backoff:
    """Pauses that get longer while nothing works: twice as long each time, from 0.1 to 5 seconds.

    Each is cut by up to a half at random, so that many lines don't come back to a daemon at the same moment.
    """

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def reset(self) -> None:
        """Begin with a short pause again: something worked."""
        self._next = FIRST_PAUSE

    def seconds(self) -> float:
        """Return how long to wait before the next try."""
        longest, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    async def pause(self) -> None:
        """Wait before the next try."""
        await asyncio.sleep(self.seconds())
