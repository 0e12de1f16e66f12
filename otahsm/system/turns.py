"""A thread that clients take turns on, as they do in the cycle.

Whoever asks is set once for each call, and is found wherever the call comes to ask: in queries, proofs and
those of later. What asks for nobody, such as a job, takes its turns as one client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Final, ParamSpec, TypeVar

ASKING: Final[ContextVar[str]] = ContextVar("asking", default="")
"""The client of the current call; "" for none."""

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


class TurnThread:
    """A thread in which each waiting client has one function run, then the next client.

    However many calls a client makes, another waits for one of them.

    Args:
        name: the thread's.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._is_busy = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by client, in order of their turns

    async def run(self, function: Callable[_P, _Result], *arguments: _P.args, **_: _P.kwargs) -> _Result:
        """Run a function in the thread when it is the client's turn."""
        await self._turn()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        finally:
            self._pass_on()

    def shutdown(self) -> None:
        """Wait for what runs, and end the thread."""
        self._thread.shutdown()

    async def _turn(self) -> None:
        if not self._is_busy:
            self._is_busy = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(ASKING.get(), deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn already
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give the next client its turn; one that was waiting for several comes last then."""
        while self._waiting:
            client, turns = next(iter(self._waiting.items()))
            del self._waiting[client]
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False
