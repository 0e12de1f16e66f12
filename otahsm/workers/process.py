"""The daemon's side of one worker: its pending requests, and whether it still responds."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from otahsm.errors import OtahsmError, WorkerLostError, WorkerSuspectError
from otahsm.workers import frames
from otahsm.workers.frames import BrokenFrameError, Kind
from otahsm.workers.handle import WorkerHandle

_LAST_WORDS: Final = 1.0  # seconds to wait for the last message of a dead worker


class Worker:
    """One running process, which handles requests in order.

    Args:
        peer: its handle.
        changed: called after each response, and when it has failed.
        believes: whether it is believed that it makes progress; if not, only its responses count.
    """

    def __init__(self, peer: WorkerHandle, changed: Callable[[], None], *, believes: bool = True) -> None:
        self.pid = 0  # until it is ready, and reports it
        self.last_answer = time.monotonic()
        self.answers = 0
        self.failure: OtahsmError | None = None
        self._peer = peer
        self._changed = changed
        self._believes = believes
        self._owed: deque[asyncio.Future[list[bytes]]] = deque()
        self._reader = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        """Whether it can take requests."""
        return not self._peer.gone and self.failure is None

    @property
    def load(self) -> int:
        """The number of pending requests."""
        return len(self._owed)

    async def exchange(self, kind: Kind, parts: Sequence[bytes], seconds: float) -> list[bytes]:
        """Send one message and return the parts of the response. A worker that fails is killed.

        A worker counts as hung if it has pending requests and made no progress for `seconds`.

        Raises:
            WorkerLostError: it died, hung, or violated the protocol.
            OtahsmError: what the worker itself reported.
        """
        if self.failure:
            raise self.failure
        if not self._owed:
            self.last_answer = time.monotonic()  # it was idle until now
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._owed.append(answer)
        self._peer.writer.write(frames.encode(kind, parts))
        try:
            while not answer.done():
                silent = time.monotonic() - self.last_answer
                if silent >= seconds:
                    what = f"{self._peer.name} did not respond within {seconds:g} s"
                    self._fail(WorkerLostError(what))
                await asyncio.wait({answer}, timeout=max(seconds - silent, 0))
        except asyncio.CancelledError:
            answer.cancel()
            self._fail(WorkerLostError(f"the call to {self._peer.name} was cancelled"))
            raise
        return answer.result()

    def distrust(self, why: str) -> WorkerSuspectError:
        """Kill it because of what it returned; return the error."""
        failure = WorkerSuspectError(f"{self._peer.name} was killed: {why}")
        self._fail(failure)
        return failure

    async def get_ready(self, setup: Sequence[bytes], seconds: float) -> None:
        """Send the setup message, and wait until it is ready. Raises as `exchange`."""
        response = await self.exchange(Kind.SETUP, setup, seconds)
        try:
            (self.pid,) = map(int, response)
        except ValueError:
            raise WorkerLostError(f"{self._peer.name} violated the protocol") from None

    async def _read(self) -> None:
        try:
            while True:
                header = frames.decode_header(await self._peer.reader.readexactly(frames.HEADER.size))
                parts = frames.decode_body(header, await self._peer.reader.readexactly(header.length))
                if header.kind is Kind.PROGRESS and not self._believes:
                    continue
                self.last_answer = time.monotonic()
                if header.kind is Kind.PROGRESS:
                    continue
                if header.kind is Kind.ERROR:
                    self._fail(frames.decode_error(parts))
                    return
                answer = self._owed.popleft()
                self.answers += 1
                if not answer.done():
                    answer.set_result(parts)
                self._changed()
        except (asyncio.IncompleteReadError, OSError, BrokenFrameError, IndexError):
            pass
        finally:  # nothing reads its responses any more, so it must not look alive
            self._fail(WorkerLostError(f"{self._peer.name} died or violated the protocol"))

    def _fail(self, failure: OtahsmError) -> None:
        """Kill it, and fail its pending requests. Only the first reason counts."""
        self.failure = self.failure or failure
        self.kill()
        while self._owed:
            answer = self._owed.popleft()
            if not answer.done():
                answer.set_exception(self.failure)
        self._changed()

    def kill(self) -> None:
        """Kill it; `ended` waits for its exit."""
        self._peer.kill()

    async def ended(self) -> OtahsmError:
        """Wait for its exit; return the reason: its own error message, if it sent one."""
        how = await self._peer.ended()
        await asyncio.wait({self._reader}, timeout=_LAST_WORDS)
        self._reader.cancel()  # another process may hold its end of the pipe open
        failure = WorkerLostError(how)
        self._fail(failure)
        return self.failure or failure
