"""Counts the open calls of each client, and has those that wait for their message take turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from otahsm.errors import TooManyCallsError


class _Client:
    """The open calls of a client."""

    def __init__(self, receiving: int) -> None:
        self.open = 0
        self.receiving = asyncio.Semaphore(receiving)


class OpenCalls:
    """Counts the open calls of each client.

    Args:
        limit: the most open calls of a client.
        receiving: how many of them may receive their message at a time.
        what: their name in messages.
    """

    def __init__(self, limit: int, receiving: int, what: str) -> None:
        self._limit = limit
        self._receiving = receiving
        self._what = what
        self._clients: dict[str, _Client] = {}

    @contextlib.contextmanager
    def one_more(self, client: str) -> Iterator[asyncio.Semaphore]:
        """Count a call of a client as open until the block ends.

        Yields:
            What to hold while its message is received.

        Raises:
            TooManyCallsError: the client has reached the limit.
        """
        calls = self._clients.get(client)
        if calls is None:
            calls = self._clients[client] = _Client(self._receiving)
        if calls.open >= self._limit:
            raise TooManyCallsError(f"{client} has reached its limit of {self._limit} open {self._what}")
        calls.open += 1
        try:
            yield calls.receiving
        finally:
            calls.open -= 1
            if not calls.open:
                del self._clients[client]
