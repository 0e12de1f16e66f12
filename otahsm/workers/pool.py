"""The daemon's side: a fixed number of workers, each replaced when it dies, hangs or breaks the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from otahsm.errors import (
    AuthorityUnusableError,
    ConfigError,
    OtahsmError,
    TokenRefusedError,
    WorkerLostError,
    WorkersBusyError,
)
from otahsm.workers import frames
from otahsm.workers.child import DAEMON_PID
from otahsm.workers.frames import BrokenFrameError, Kind

# What only an operator can mend. Starting another worker would meet the same, or lock the token (I7).
_FINAL: Final = (TokenRefusedError, ConfigError, AuthorityUnusableError)
_FIRST_PAUSE: Final = 0.25
_SETTLED: Final = 5.0  # a worker that lived for less failed as much as one that never started
_START_TIMEOUT: Final = 60.0

Report = Callable[[str, int, OtahsmError | None], None]


class _Worker:
    """One running process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.last_answer = time.monotonic()
        self.failure: OtahsmError | None = None

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def exchange(self, kind: Kind, parts: Sequence[bytes], seconds: float) -> list[bytes]:
        """Send one message and return the answer's parts; a worker that fails at it is killed.

        Raises:
            WorkerLostError: it died, did not answer in time, or answered nonsense.
            OtahsmError: what the worker itself reported.
        """
        body: list[bytes] = []
        try:
            async with asyncio.timeout(seconds):
                answer, body = await self._roundtrip(frames.encode(kind, parts))
            if answer is Kind.ERROR:
                self.failure = frames.decode_error(body)
        except TimeoutError:
            self.failure = WorkerLostError(f"process {self.process.pid} did not answer within {seconds:g} s")
        except (asyncio.IncompleteReadError, OSError, BrokenFrameError):
            self.failure = WorkerLostError(f"process {self.process.pid} died or broke the protocol")
        except BaseException:
            self.kill()  # an answer may still be on its way: the pipe can't be used again
            raise
        if self.failure:
            self.kill()
            raise self.failure
        self.last_answer = time.monotonic()
        return body

    async def _roundtrip(self, message: bytes) -> tuple[Kind, list[bytes]]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None  # noqa: S101 - both are pipes, always
        assert stdout is not None  # noqa: S101
        stdin.write(message)
        await stdin.drain()
        kind, length = frames.decode_header(await stdout.readexactly(frames.HEADER.size))
        return kind, frames.decode_body(await stdout.readexactly(length))

    def kill(self) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()


class WorkerPool:
    """`size` workers that run `python -m <module>`, and the queue in front of them.

    Args:
        name: what one worker is called in events.
        module: the worker's main module; it calls `run_worker`.
        setup: the first message to each worker.
        size: how many processes.
        environment: the workers' environment variables, all of them.
        call_seconds: how long a batch may take before its worker counts as hung.
        wait_seconds: how long a batch waits for a free worker before it is given up.
        probe: a batch that each worker is given after `probe_seconds` without another, to know it works.
        longest_pause: what the pause before a start grows to, while workers fail one after another.
        report: called with (event, pid, error) when a worker is ready, lost, or failed to start; the event is
            "<name>.ready", "<name>.lost" or "<name>.failed".
    """

    def __init__(  # noqa: PLR0913 - each is a decision of the owner's
        self,
        name: str,
        module: str,
        setup: Sequence[bytes],
        *,
        size: int,
        environment: Mapping[str, str],
        call_seconds: float,
        wait_seconds: float,
        probe: Sequence[bytes] = (),
        probe_seconds: float = 10.0,
        longest_pause: float,
        report: Report,
    ) -> None:
        self._name = name
        # -P: a module of the working directory must not stand in for one of ours
        self._command = (sys.executable, "-P", "-m", module)
        self._setup = tuple(setup)
        self._size = size
        self._environment = {**environment, DAEMON_PID: str(os.getpid())}
        self._call_seconds = call_seconds
        self._wait_seconds = wait_seconds
        self._probe = tuple(probe)
        self._probe_seconds = probe_seconds
        self._longest_pause = longest_pause
        self._report = report
        self._idle: deque[_Worker] = deque()
        self._workers: set[_Worker] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self._given_up = 0
        self.refusal: OtahsmError | None = None

    @property
    def ready(self) -> int:
        """How many workers have got ready and are alive."""
        return len(self._workers)

    @property
    def stopped(self) -> bool:
        """Whether no worker lives and none will be started: `refusal` says why."""
        return self._given_up == self._size

    async def start(self) -> None:
        """Start the workers, and return while they get ready."""
        self._keepers = [asyncio.create_task(self._keep_one()) for _ in range(self._size)]

    async def wait_until_ready(self) -> None:
        """Return when a worker is ready.

        Raises:
            OtahsmError: none is, and none will be without an operator.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._workers or self.stopped)
        if not self._workers and self.refusal:
            raise self.refusal

    async def close(self) -> None:
        """End all workers; a batch in hand is given up."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        async with self._changed:
            self._given_up = self._size
            self._changed.notify_all()

    async def call(self, batch: Sequence[bytes]) -> list[bytes]:
        """Give a batch to a free worker; if that one fails, once more to another.

        Raises:
            WorkersBusyError: none was free in time.
            WorkerLostError: two in a row died, hung or broke the protocol with this batch.
            OtahsmError: what the second worker reported.
        """
        worker = await self._take()
        try:
            return await self._give(worker, batch)
        except _FINAL:
            raise
        except OtahsmError:
            return await self._give(await self._take(), batch)

    async def _give(self, worker: _Worker, batch: Sequence[bytes]) -> list[bytes]:
        answer = await worker.exchange(Kind.BATCH, batch, self._call_seconds)
        await self._give_back(worker)
        return answer

    async def _take(self) -> _Worker:
        try:
            async with asyncio.timeout(self._wait_seconds), self._changed:
                while True:
                    await self._changed.wait_for(lambda: self._idle or self.stopped)
                    if not self._idle:
                        break
                    worker = self._idle.popleft()
                    if worker.alive:
                        return worker
        except TimeoutError:
            raise WorkersBusyError(f"no process was free within {self._wait_seconds:g} s") from self.refusal
        raise self.refusal or WorkersBusyError("the pool is closed")

    async def _give_back(self, worker: _Worker) -> None:
        async with self._changed:
            self._idle.append(worker)
            self._changed.notify()

    async def _keep_one(self) -> None:
        """Keep one worker alive for as long as the pool is: start, watch, replace after a pause."""
        pause = _FIRST_PAUSE
        while True:
            try:
                worker = await self._start_one()
            except OtahsmError as error:
                self._report(f"{self._name}.failed", 0, error)
                if isinstance(error, _FINAL):
                    async with self._changed:
                        self.refusal = error
                        self._given_up += 1
                        self._changed.notify_all()
                    return
                settled = False
            else:
                settled = await self._keep(worker)
            pause = _FIRST_PAUSE if settled else pause
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(2 * pause, self._longest_pause)

    async def _keep(self, worker: _Worker) -> bool:
        """Watch a worker until it ends; return whether it had lived for a while."""
        started = time.monotonic()
        try:
            self._report(f"{self._name}.ready", worker.process.pid, None)
            failure = await self._watch(worker)
        finally:
            await self._forget(worker)
        self._report(f"{self._name}.lost", worker.process.pid, failure)
        return time.monotonic() - started > _SETTLED

    async def _start_one(self) -> _Worker:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
            )
        except OSError as error:
            raise WorkerLostError(f"a process could not be started: {error}") from error
        worker = _Worker(process)
        try:
            await worker.exchange(Kind.SETUP, self._setup, _START_TIMEOUT)
        except BaseException:
            worker.kill()
            await process.wait()
            raise
        async with self._changed:
            self._workers.add(worker)
            self._idle.append(worker)
            self._changed.notify_all()
        return worker

    async def _watch(self, worker: _Worker) -> OtahsmError:
        """Wait for a worker's end, giving it the probe whenever it was idle for long; return why it ended."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._probe_seconds if self._probe else None):
                    await worker.process.wait()
                status = worker.process.returncode
                return worker.failure or WorkerLostError(f"process {worker.process.pid} exited with {status}")
            idle_for = time.monotonic() - worker.last_answer
            if idle_for < self._probe_seconds or worker not in self._idle:
                continue
            self._idle.remove(worker)
            try:
                await worker.exchange(Kind.BATCH, self._probe, self._call_seconds)
            except OtahsmError as error:
                return error
            await self._give_back(worker)

    async def _forget(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.discard(worker)
        with contextlib.suppress(ValueError):
            self._idle.remove(worker)
        await asyncio.shield(worker.process.wait())
