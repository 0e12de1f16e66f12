"""The daemon's side: a fixed number of workers, each replaced when it dies, hangs or violates the protocol.

A circuit breaker is open while no worker is alive: one worker at a time is started, with growing pauses, and
the others wait until one is ready. So a token that is dead or rebooting is not hammered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeVar

from otahsm.errors import (
    AuthorityUnusableError,
    ConfigError,
    OtahsmError,
    SigningRefusedError,
    TokenRefusedError,
    WorkersBusyError,
)
from otahsm.workers.child import DAEMON_PID
from otahsm.workers.frames import Kind
from otahsm.workers.handle import WorkerHandle, connect, start_child
from otahsm.workers.process import Worker

# Errors that only an operator can fix: calls fail immediately. Starting a worker is still retried, so that
# nobody has to restart the daemon after the fix. A refused PIN is not tried again by that (I7).
_REFUSALS: Final = (TokenRefusedError, ConfigError, AuthorityUnusableError)
_FIRST_PAUSE: Final = 0.25
_SETTLED: Final = 5.0  # seconds; a worker that lived for less and answered nothing counts as not started
_START_TIMEOUT: Final = 60.0

Report = Callable[[str, int, OtahsmError | None], None]

_Answer = TypeVar("_Answer")


class WorkerPool:
    """`size` workers that run `python -m <module>`, and the queue in front of them.

    Args:
        name: a worker's name in events.
        module: the worker's main module; it calls `run_worker`.
        setup: the parts of the first message to each worker.
        size: the number of processes.
        depth: the most requests that a worker has at a time.
        environment: all environment variables of the workers.
        call_seconds: how long a worker may take to make progress before it counts as hung.
        wait_seconds: how long a request waits for a free worker before it fails.
        probe: a request that checks a worker after `probe_seconds` without another; empty for none.
        longest_pause: the upper limit of the pause before a start, in seconds, while workers keep failing.
        report: called with (event, pid, error) when a worker is ready, lost, or failed to start; the event is
            "<name>.ready", "<name>.lost" or "<name>.failed".
        start: starts a worker at a socket, in place of child processes; it raises WorkerLostError.
        socket: a socket where systemd starts a worker for each connection; None to start child processes.
        believes: whether workers are believed that they make progress; if not, only their responses count.
    """

    def __init__(  # noqa: PLR0913 - each is the owner's decision
        self,
        name: str,
        module: str,
        setup: Sequence[bytes],
        *,
        size: int,
        depth: int = 1,
        environment: Mapping[str, str],
        call_seconds: float,
        wait_seconds: float,
        probe: Sequence[bytes] = (),
        probe_seconds: float = 10.0,
        longest_pause: float,
        report: Report,
        start: Callable[[], Awaitable[WorkerHandle]] | None = None,
        socket: Path | None = None,
        believes: bool = True,
    ) -> None:
        self._name = name
        self._believes = believes
        # -P: a module in the working directory must not shadow one of ours
        command = (sys.executable, "-P", "-m", module)
        surroundings = {**environment, DAEMON_PID: str(os.getpid())}
        self._start_peer: Callable[[], Awaitable[WorkerHandle]] = (
            partial(connect, socket, f"otahsm-{name}.socket")
            if socket
            else start or partial(start_child, command, surroundings)
        )
        self._setup = tuple(setup)
        self._size = size
        self._depth = depth
        self._call_seconds = call_seconds
        self._wait_seconds = wait_seconds
        self._probe = tuple(probe)
        self._probe_seconds = probe_seconds
        self._longest_pause = longest_pause
        self._report = report
        self._workers: set[Worker] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._breaker = asyncio.Lock()
        self._pause = _FIRST_PAUSE
        self.refusal: OtahsmError | None = None
        self._failure: OtahsmError | None = None

    @property
    def ready(self) -> int:
        """The number of workers that are ready and alive."""
        return len(self._workers)

    @property
    def failure(self) -> OtahsmError | None:
        """Why no worker is ready; None if one is, or none has failed yet."""
        return None if self._workers else self._failure

    @property
    def stopped(self) -> bool:
        """Whether no worker is alive and an operator must act first; `refusal` says why."""
        return self.refusal is not None and not self._workers

    async def start(self) -> Sequence[asyncio.Task[None]]:
        """Start the workers without waiting for them.

        Returns:
            The tasks that keep one worker each, until `close`. The caller must watch them: if one ends
            earlier, the pool has one worker less.
        """
        name = f"the keeper of a {self._name}"
        self._keepers = [asyncio.create_task(self._keep_one(), name=name) for _ in range(self._size)]
        return self._keepers

    async def wait_until_ready(self, count: int = 1) -> None:
        """Wait until `count` workers are ready.

        Raises:
            OtahsmError: none is ready, and none will be until an operator acts.
        """
        await self._until(lambda: len(self._workers) >= count or self.stopped)
        if not self._workers and self.refusal:
            raise self.refusal

    async def close(self) -> None:
        """Stop all workers, and fail their pending requests."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self.refusal = WorkersBusyError("the pool is closed")
        self._wake()

    async def call(self, request: Sequence[bytes], *, once: bool = False) -> list[bytes]:
        """Send a request to a free worker, and if that fails, to another; return the response as it is.

        For arguments and errors see `ask`.
        """
        return await self.ask(request, lambda response: response, once=once)

    async def ask(
        self, request: Sequence[bytes], read: Callable[[list[bytes]], _Answer], *, once: bool = False
    ) -> _Answer:
        """Send a request to a free worker, and if that fails, to another; return what `read` makes of it.

        Args:
            request: its parts.
            read: takes the parts of a response; raises ValueError if an honest worker would not return them.
                Then the worker is killed, and counts as lost.
            once: don't retry, and don't wait for a worker if none is alive: the caller has an alternative.

        Raises:
            WorkersBusyError: no worker was free in time.
            WorkerLostError: two workers died, hung or violated the protocol with this request.
            OtahsmError: what the second worker reported.
        """
        worker = await self._take(wait_for_life=not once)
        try:
            return await self._give(worker, request, read)
        except OtahsmError as error:
            if once or isinstance(error, (*_REFUSALS, SigningRefusedError)):
                raise
            try:
                worker = await self._take()
            except WorkersBusyError:
                raise error from None  # the first error says more
        return await self._give(worker, request, read)

    async def _give(
        self, worker: Worker, request: Sequence[bytes], read: Callable[[list[bytes]], _Answer]
    ) -> _Answer:
        response = await worker.exchange(Kind.REQUEST, request, self._call_seconds)
        try:
            return read(response)
        except ValueError as error:
            raise worker.distrust(str(error)) from None

    async def _take(self, *, wait_for_life: bool = True) -> Worker:
        """Wait for a worker with room; return the least loaded."""

        def decided() -> bool:
            given_up = self.stopped or not (wait_for_life or self._workers)
            return given_up or self._free() is not None

        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._until(decided)
        except TimeoutError:
            raise WorkersBusyError(f"no process was free within {self._wait_seconds:g} s") from self.refusal
        if worker := self._free():
            return worker
        raise self.refusal or WorkersBusyError("no process is alive")

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; the longest waiter checks first."""
        while not condition():
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(change)
            await change

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)

    def _free(self) -> Worker | None:
        worker = min(filter(attrgetter("alive"), self._workers), key=attrgetter("load"), default=None)
        return worker if worker and worker.load < self._depth else None

    async def _keep_one(self) -> None:
        """Keep one worker alive until the pool is closed: start, watch, replace after a pause."""
        pause = _FIRST_PAUSE
        while True:
            worker = await self._start_in_turn()
            if worker is not None and await self._keep(worker):
                pause = self._pause = _FIRST_PAUSE
            await _sleep_about(pause)
            pause = min(2 * pause, self._longest_pause)

    async def _start_in_turn(self) -> Worker | None:
        """Start a worker: immediately if others are alive, otherwise when it is this keeper's turn."""
        async with self._breaker:
            while not self._workers:
                if worker := await self._try_to_start():
                    return worker
                await _sleep_about(self._pause)
                self._pause = min(2 * self._pause, self._longest_pause)
        return await self._try_to_start()

    async def _try_to_start(self) -> Worker | None:
        try:
            return await self._start_one()
        except OtahsmError as error:
            self._failure = error
            self.refusal = error if isinstance(error, _REFUSALS) else None
            self._report(f"{self._name}.failed", 0, error)
            self._wake()
            return None

    async def _keep(self, worker: Worker) -> bool:
        """Watch a worker until it exits; return whether it had been useful for a while."""
        started = time.monotonic()
        try:
            self._report(f"{self._name}.ready", worker.pid, None)
            failure = await self._watch(worker)
        finally:
            await self._forget(worker)
        if not self._workers:
            self._failure = failure
        self._report(f"{self._name}.lost", worker.pid, failure)
        return worker.answers > 1 or time.monotonic() - started > _SETTLED

    async def _start_one(self) -> Worker:
        worker = Worker(await self._start_peer(), self._wake, believes=self._believes)
        try:
            await worker.get_ready(self._setup, _START_TIMEOUT)
        except BaseException:
            worker.kill()
            await worker.ended()
            raise
        self._workers.add(worker)
        self.refusal = self._failure = None
        self._wake()
        return worker

    async def _watch(self, worker: Worker) -> OtahsmError:
        """Wait for a worker's exit, probing it when it is idle for long; return the reason."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._probe_seconds if self._probe else None):
                    return await worker.ended()
            if worker.load == 0 and time.monotonic() - worker.last_answer >= self._probe_seconds:
                try:
                    await self._give(worker, self._probe, lambda _: None)
                except OtahsmError as error:
                    return error

    async def _forget(self, worker: Worker) -> None:
        self._workers.discard(worker)
        self._wake()  # if this was the last worker, waiting calls may fail now
        worker.kill()
        await asyncio.shield(worker.ended())


async def _sleep_about(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
