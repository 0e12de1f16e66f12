"""Counts the open calls of each client."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from otahsm.errors import TooManyCallsError


class OpenCalls:
    """Counts the open calls of each client.

    Args:
        limit: the most open calls of a client.
        what: their name in messages.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_more(self, client: str) -> Iterator[None]:
        """Count a call of a client as open until the block ends.

        Raises:
            TooManyCallsError: the client has reached the limit.
        """
        if self._open[client] >= self._limit:
            raise TooManyCallsError(f"{client} has reached its limit of {self._limit} open {self._what}")
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
