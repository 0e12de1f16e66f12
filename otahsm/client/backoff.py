"""Pauses between retries."""

from __future__ import annotations

import asyncio
import random
from typing import Final

FIRST_PAUSE: Final = 0.1  # seconds
LONGEST_PAUSE: Final = 5.0


class Backoff:
    """Exponential backoff with jitter, from 0.1 to 5 seconds.

    Each pause is shortened by up to a half at random, so that clients don't retry at the same moment.
    """

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def reset(self) -> None:
        """Start with a short pause again, after a success."""
        self._next = FIRST_PAUSE

    def seconds(self) -> float:
        """Return the seconds to wait before the next retry."""
        longest, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    async def pause(self) -> None:
        """Wait before the next retry."""
        await asyncio.sleep(self.seconds())
