"""Counts the open calls of each client, and has those that may cost much memory take turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from otahsm.daemon.edge import limits
from otahsm.errors import TooManyCallsError


class Turns(NamedTuple):
    """What calls of a client hold: while they receive their message, and until a large response is read."""

    receiving: asyncio.Semaphore
    answering: asyncio.Semaphore


class _Client:
    """The open calls of a client."""

    def __init__(self) -> None:
        self.open = 0
        self.turns = Turns(
            asyncio.Semaphore(limits.MAX_RECEIVING_A_CLIENT), asyncio.Semaphore(limits.MAX_ANSWERING_A_CLIENT)
        )


class OpenCalls:
    """Counts the open calls of each client.

    Args:
        limit: the most open calls of a client.
        what: their name in messages.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._clients: dict[str, _Client] = {}

    @contextlib.contextmanager
    def one_more(self, client: str) -> Iterator[Turns]:
        """Count a call of a client as open until the block ends.

        Yields:
            What it must hold.

        Raises:
            TooManyCallsError: the client has reached the limit.
        """
        calls = self._clients.get(client)
        if calls is None:
            calls = self._clients[client] = _Client()
        if calls.open >= self._limit:
            raise TooManyCallsError(f"{client} has reached its limit of {self._limit} open {self._what}")
        calls.open += 1
        try:
            yield calls.turns
        finally:
            calls.open -= 1
            if not calls.open:
                del self._clients[client]
