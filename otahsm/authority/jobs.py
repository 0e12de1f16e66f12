"""Background jobs, which one supervisor runs periodically and watches for as long as the daemon runs.

A pass of a job can fail in two ways:

- **expected errors** (`OtahsmError`, `OSError`: the disk, the token, the database) are a state. They are
  logged when they start and when they are over, `otahsm health` shows them, and the job retries every few
  seconds. They never stop the daemon.
- **internal errors** (any other exception) are bugs. Each is counted, and logged as `job.failed` with a
  traceback. The job retries after one second, then two, and so on up to 30. After `MAX_FAULTS` without a
  successful pass in between, the daemon exits, with a code that makes systemd restart it.

A pass that finds the ledger tampered with (`LedgerTamperedError`) has found more than a failure: until a pass
of that job succeeds, `Supervisor.tampering` says so, and jobs that publish wait.

A pass that hangs (such as on a network file system whose server is gone) can't be cancelled. After
`LONG_PASS` seconds it is logged as `job.stuck`, and `otahsm health` shows it until it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from otahsm.errors import DaemonFailedError, LedgerTamperedError, OtahsmError
from otahsm.system.clock import Clock

MAX_FAULTS: Final = 10
LONG_PASS: Final = 60.0  # seconds
_SHORTEST_REST: Final = 1.0  # seconds, after a failure, even if the job is woken
_LONGEST_REST: Final = 30.0  # seconds, after an internal error

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A periodic task.

    Attributes:
        name: its name in the log and in `otahsm health`.
        run_once: does one pass; returns the seconds until the next, or None for `interval`.
        interval: seconds from one pass to the next.
        woken: set it to start the next pass at once.
        after: awaited before the first pass, which runs even if this fails.
        failing: the log event for an expected error.
        recovered: the log event for recovery.
        logged_elsewhere: errors that another job logs.
        retry_seconds: the longest wait after an expected error; at least `interval`.
        waits_for: the jobs of which none may have found the ledger tampered with, or no pass is made.
    """

    name: str
    run_once: Callable[[], Awaitable[float | None]]
    interval: float
    woken: asyncio.Event | None = None
    after: Callable[[], Awaitable[object]] | None = None
    failing: str = "job.waiting"
    recovered: str = "job.recovered"
    logged_elsewhere: tuple[type[OtahsmError], ...] = ()
    retry_seconds: float = 5.0
    waits_for: tuple[str, ...] = ()


class JobState(NamedTuple):
    """The state of a job.

    Attributes:
        name: the name of the job.
        failing_since: when it started to fail or hang; None if it is healthy.
        message: a human-readable reason; "" if it is healthy.
        faults: the number of internal errors since the daemon started.
    """

    name: str
    failing_since: datetime | None = None
    message: str = ""
    faults: int = 0


class _Due(NamedTuple):
    """The time until the next pass: a rest (seconds), then `seconds` more unless the job is woken."""

    rest: float
    seconds: float


async def _wait(seconds: float, woken: asyncio.Event | None) -> None:
    if woken is None:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()


class Supervisor:
    """Runs jobs until it is closed.

    Args:
        clock: the time of day, for `JobState.failing_since`.
        timer: a monotonic clock, in seconds.
        wait: waits for a number of seconds, or until an event is set.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        timer: Callable[[], float] = time.monotonic,
        wait: Callable[[float, asyncio.Event | None], Awaitable[None]] = _wait,
    ) -> None:
        self._clock = clock
        self._timer = timer
        self._wait = wait
        self._watched: list[_Watched] = []
        self._hopeless: DaemonFailedError | None = None
        self._has_given_up = asyncio.Event()
        self._closing = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def states(self) -> list[JobState]:
        """The states of all jobs, in the order in which they were started."""
        return [watched.state for watched in self._watched]

    @property
    def tampering(self) -> LedgerTamperedError | None:
        """What a job has found out about the ledger; None if no job has found it tampered with."""
        return self.tampering_of([watched.job.name for watched in self._watched])

    def tampering_of(self, names: Sequence[str]) -> LedgerTamperedError | None:
        """Return what one of these jobs has found out about the ledger; None if none has."""
        found = (watched.tampering for watched in self._watched if watched.job.name in names)
        return next((each for each in found if each is not None), None)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Register a function to call when a job starts to fail, fails for another reason, or recovers."""
        self._listeners.append(listener)

    def start(self, job: Job) -> None:
        """Start to run a job."""
        watched = _Watched(job)
        self._watched.append(watched)
        watched.task = asyncio.create_task(self._run(watched), name=f"job {job.name}")
        watched.task.add_done_callback(lambda task: self._note_end(job, task))

    def guard(self, name: str, task: asyncio.Task[None]) -> None:
        """Make `watch` fail if a task that is not a job ends without being cancelled."""

        def note_end(ended: asyncio.Task[None]) -> None:
            if not ended.cancelled():
                self._give_up(f"{name} ended: {ended.exception()!r}")

        task.add_done_callback(note_end)

    async def watch(self) -> None:
        """Wait until something fails beyond recovery. The daemon must exit then.

        Raises:
            DaemonFailedError: a job had `MAX_FAULTS` internal errors without a successful pass in between; or
                a job or a guarded task ended.
        """
        await self._has_given_up.wait()
        assert self._hopeless is not None  # noqa: S101 - set before the event is
        raise self._hopeless

    async def close(self, within: float) -> None:
        """Start no more passes, and let running ones finish for up to `within` seconds."""
        self._closing.set()
        tasks = [watched.task for watched in self._watched if watched.task is not None]
        for watched in self._watched:
            if watched.task is not None and not watched.is_in_pass:
                watched.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, watched: _Watched) -> None:
        job = watched.job
        if job.after is not None:
            with contextlib.suppress(Exception):  # the first pass reports what is wrong
                await job.after()
        while True:
            if job.woken is not None:
                job.woken.clear()
            if self.tampering_of(job.waits_for) is not None:
                await self._wait(_SHORTEST_REST, None)
                continue
            began = self._timer()
            due = await self._pass(watched)
            if self._closing.is_set():
                return
            # A job runs at most half of the time. Whatever arrives in between is handled in one pass.
            await self._wait(max(due.rest, min(self._timer() - began, job.interval)), None)
            await self._wait(due.seconds, job.woken)

    async def _pass(self, watched: _Watched) -> _Due:
        watched.is_in_pass = True
        stuck = asyncio.get_running_loop().call_later(LONG_PASS, self._note_stuck, watched, self._clock())
        try:
            seconds = await watched.job.run_once()
        except (OtahsmError, OSError) as error:
            if isinstance(error, LedgerTamperedError):
                watched.tampering = error.as_value()
            return self._note_foreseen(watched, error)
        except Exception as error:  # noqa: BLE001 - any internal error is logged and counted, and the job goes on
            return self._note_fault(watched, error)
        finally:
            stuck.cancel()
            watched.is_in_pass = False
        if watched.is_logged:
            _log.info(watched.job.recovered, job=watched.job.name)
        if watched.note_well():
            self.notify()
        return _Due(0.0, watched.job.interval if seconds is None else seconds)

    def _note_stuck(self, watched: _Watched, began: datetime) -> None:
        message = f"a pass has been running since {began:%Y-%m-%dT%H:%M:%SZ}"
        watched.is_logged = True
        _log.error("job.stuck", job=watched.job.name, message=message)
        watched.note_failure(message, began)
        self.notify()

    def _note_foreseen(self, watched: _Watched, error: OtahsmError | OSError) -> _Due:
        job, message = watched.job, _message_of(error)
        if message != watched.state.message and not isinstance(error, job.logged_elsewhere):
            watched.is_logged = True
            ours = isinstance(error, OtahsmError)
            more = {"reason": error.reason, "hint": error.hint} if ours else {}  # type: ignore[union-attr]
            _log.error(job.failing, job=job.name, message=message, **more)
        if watched.note_failure(message, self._clock()):
            self.notify()
        longest = max(job.interval, job.retry_seconds)
        seconds = _doubled(min(job.interval, _SHORTEST_REST), watched.failures_in_a_row, longest)
        rest = min(seconds, _SHORTEST_REST)
        return _Due(rest, seconds - rest)

    def _note_fault(self, watched: _Watched, error: Exception) -> _Due:
        watched.is_logged = True
        if watched.note_failure(f"internal error: {error!r}", self._clock()):
            self.notify()
        watched.note_fault()
        count = watched.faults_in_a_row
        rest = _doubled(_SHORTEST_REST, count, _LONGEST_REST)
        _log.error("job.failed", job=watched.job.name, in_a_row=count, exc_info=error)
        if count >= MAX_FAULTS:
            self._give_up(f"the job {watched.job.name} failed {count} times in a row: {error!r}")
        return _Due(rest, 0.0)

    def notify(self) -> None:
        """Call the functions of `on_change`."""
        for listener in self._listeners:
            listener()

    def _note_end(self, job: Job, task: asyncio.Task[None]) -> None:
        """Give up if a job ended before `close`, even by a cancellation, which may come from anywhere."""
        if not self._closing.is_set():
            why = "it was cancelled" if task.cancelled() else repr(task.exception())
            self._give_up(f"the job {job.name} ended: {why}")

    def _give_up(self, message: str) -> None:
        self._hopeless = self._hopeless or DaemonFailedError(message)
        self._has_given_up.set()


class _Watched:
    """A job and its state."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self.state = JobState(job.name)
        self.is_in_pass = False
        self.is_logged = False  # whether a current failure was logged
        self.tampering: LedgerTamperedError | None = None  # until a pass succeeds
        self.failures_in_a_row = 0
        self.faults_in_a_row = 0

    def note_well(self) -> bool:
        """Record that a pass succeeded; return whether the state changed."""
        is_news = self.state.failing_since is not None
        self.state = JobState(self.job.name, faults=self.state.faults)
        self.is_logged = False
        self.tampering = None
        self.failures_in_a_row = self.faults_in_a_row = 0
        return is_news

    def note_failure(self, message: str, now: datetime) -> bool:
        """Record that a pass failed; return whether the state changed."""
        is_news = message != self.state.message
        self.failures_in_a_row += 1
        self.state = self.state._replace(failing_since=self.state.failing_since or now, message=message)
        return is_news

    def note_fault(self) -> None:
        self.faults_in_a_row += 1
        self.state = self.state._replace(faults=self.state.faults + 1)


def _doubled(first: float, times: int, longest: float) -> float:
    """Return the wait after a number of failures in a row: it doubles each time, up to the longest."""
    return min(first * 2.0 ** min(times - 1, 16), longest)


def _message_of(error: OtahsmError | OSError) -> str:
    if isinstance(error, OtahsmError):
        return error.message
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{where}" if error.strerror else str(error)
