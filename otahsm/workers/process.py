"""The daemon's side of one worker: what it was sent, what it owes, and whether it still answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from otahsm.errors import OtahsmError, WorkerLostError
from otahsm.workers import frames
from otahsm.workers.frames import BrokenFrameError, Kind

_LAST_WORDS: Final = 1.0  # seconds that what a dead worker wrote may take to arrive


class Worker:
    """One running process, which answers what it is sent in order.

    Args:
        process: it, with pipes.
        changed: called whenever it has answered, and when it has failed.
    """

    def __init__(self, process: asyncio.subprocess.Process, changed: Callable[[], None]) -> None:
        assert process.stdin is not None  # noqa: S101 - both are pipes, always
        assert process.stdout is not None  # noqa: S101
        self.process = process
        self.last_answer = time.monotonic()
        self.answers = 0
        self.failure: OtahsmError | None = None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._changed = changed
        self._handle: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it may be gone already
            self._handle = os.pidfd_open(process.pid)
        self._owed: deque[asyncio.Future[list[bytes]]] = deque()
        self._reader = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        """Whether it may be given anything."""
        return self.process.returncode is None and self.failure is None

    @property
    def load(self) -> int:
        """How many answers it owes."""
        return len(self._owed)

    async def exchange(self, kind: Kind, parts: Sequence[bytes], seconds: float) -> list[bytes]:
        """Send one message and return the answer's parts; a worker that fails at it is killed.

        A worker counts as hung when it owes answers and gave no part of one for so many seconds.

        Raises:
            WorkerLostError: it died, hung, or answered nonsense.
            OtahsmError: what the worker itself reported.
        """
        if self.failure:
            raise self.failure
        if not self._owed:
            self.last_answer = time.monotonic()  # until now it owed nothing
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._owed.append(answer)
        self._stdin.write(frames.encode(kind, parts))
        try:
            while not answer.done():
                silent = time.monotonic() - self.last_answer
                if silent >= seconds:
                    what = f"process {self.process.pid} did not answer within {seconds:g} s"
                    self._fail(WorkerLostError(what))
                await asyncio.wait({answer}, timeout=max(seconds - silent, 0))
        except asyncio.CancelledError:
            answer.cancel()
            self._fail(WorkerLostError(f"process {self.process.pid} was given up"))
            raise
        return answer.result()

    async def _read(self) -> None:
        try:
            while True:
                header = frames.decode_header(await self._stdout.readexactly(frames.HEADER.size))
                parts = frames.decode_body(header, await self._stdout.readexactly(header.length))
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
            self._fail(WorkerLostError(f"process {self.process.pid} died or broke the protocol"))

    def _fail(self, failure: OtahsmError) -> None:
        """Kill it; whoever waits for an answer gets the reason, and the first one counts."""
        self.failure = self.failure or failure
        self.kill()
        while self._owed:
            answer = self._owed.popleft()
            if not answer.done():
                answer.set_exception(self.failure)
        self._changed()

    def kill(self) -> None:
        """Let the kernel end it; `ended` waits for that."""
        # Not process.kill(): that looks after the process, and takes its end away from who waits for it.
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def ended(self) -> OtahsmError:
        """Wait until the process is gone; return why it went: its own last words, if it had any."""
        status = await self.process.wait()
        await asyncio.wait({self._reader}, timeout=_LAST_WORDS)
        self._reader.cancel()  # something else may hold its end of the pipe
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        failure = WorkerLostError(f"process {self.process.pid} exited with {status}")
        self._fail(failure)
        return self.failure or failure
