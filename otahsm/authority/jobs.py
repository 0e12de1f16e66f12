"""What goes on for as long as the daemon runs: jobs, which one supervisor runs again and again, and watches.

A pass of a job fails in one of two ways:

- **foreseen** (`OtahsmError`, `OSError`: the disk, the token, the database). That is a state, not a fault. It
  is logged when it begins and when it is over, `otahsm health` shows it, and the job tries again every few
  seconds. It never ends the daemon.
- **unforeseen** (any other exception: a fault of ours). Each is logged as `job.failed`, with where it was
  raised, and counted; the job tries again after one second, then two, and so on up to 30. After `MAX_FAULTS`
  with no good pass between them the daemon ends, with an exit code that has systemd start it again.

A pass that hangs (on a network file system whose server is gone, say) can't be ended. After `LONG_PASS`
seconds it is logged as `job.stuck`, and `otahsm health` shows it until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from otahsm.errors import DaemonFailedError, OtahsmError
from otahsm.system.clock import Clock

MAX_FAULTS: Final = 10
LONG_PASS: Final = 60.0  # seconds
_SHORTEST_REST: Final = 1.0  # seconds, after a failure, whoever wakes the job
_LONGEST_REST: Final = 30.0  # seconds, after an unforeseen one

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to do again and again.

    Attributes:
        name: in the log and in `otahsm health`.
        run_once: does one pass; returns in how many seconds the next is due, or None for `interval`.
        interval: seconds from one pass to the next.
        woken: when it is set, the next pass is due at once.
        after: what is waited for before the first pass; if that fails, the first pass comes all the same.
        failing: how the log calls a failure that was foreseen.
        recovered: how the log calls that it is over.
        logged_elsewhere: failures that another job logs.
        retry_seconds: the longest wait after a failure that was foreseen; never less than `interval`.
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


class JobState(NamedTuple):
    """How a job is.

    Attributes:
        name: the job's.
        failing_since: when it began to fail, or to hang; None while all is well.
        message: why it fails, for people; "" while all is well.
        faults: how often it failed in a way that nobody foresaw, since the daemon started.
    """

    name: str
    failing_since: datetime | None = None
    message: str = ""
    faults: int = 0


class _Due(NamedTuple):
    """When the next pass begins: after a rest (seconds), and so many seconds more unless the job is woken."""

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
        clock: tells since when a job fails.
        timer: seconds that never jump.
        wait: waits so many seconds, or until an event is set.
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
        """How every job is, in the order in which they were started."""
        return [watched.state for watched in self._watched]

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have a function called whenever a job begins to fail, fails for another reason, or is well."""
        self._listeners.append(listener)

    def start(self, job: Job) -> None:
        """Run a job from now on."""
        watched = _Watched(job)
        self._watched.append(watched)
        watched.task = asyncio.create_task(self._run(watched), name=f"job {job.name}")
        watched.task.add_done_callback(lambda task: self._note_end(job, task))

    def guard(self, name: str, task: asyncio.Task[None]) -> None:
        """Give up if a task that is no job, and should go on until somebody cancels it, ends by itself."""

        def note_end(ended: asyncio.Task[None]) -> None:
            if not ended.cancelled():
                self._give_up(f"{name} ended: {ended.exception()!r}")

        task.add_done_callback(note_end)

    async def watch(self) -> None:
        """Wait until something is given up; it is for the daemon to end then.

        Raises:
            DaemonFailedError: a job has failed `MAX_FAULTS` times, in ways that nobody foresaw and with no
                good pass between them, or has ended; or a task that is guarded has.
        """
        await self._has_given_up.wait()
        assert self._hopeless is not None  # noqa: S101 - set before the event is
        raise self._hopeless

    async def close(self, within: float) -> None:
        """Begin no further pass, and let those that run finish within so many seconds."""
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
            with contextlib.suppress(Exception):  # the first pass tells what is wrong
                await job.after()
        while True:
            if job.woken is not None:
                job.woken.clear()
            began = self._timer()
            due = await self._pass(watched)
            if self._closing.is_set():
                return
            # A job takes half of the time at most: what comes meanwhile waits for the next pass, together.
            await self._wait(max(due.rest, min(self._timer() - began, job.interval)), None)
            await self._wait(due.seconds, job.woken)

    async def _pass(self, watched: _Watched) -> _Due:
        watched.is_in_pass = True
        stuck = asyncio.get_running_loop().call_later(LONG_PASS, self._note_stuck, watched, self._clock())
        try:
            seconds = await watched.job.run_once()
        except (OtahsmError, OSError) as error:
            return self._note_foreseen(watched, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and counted, and the job goes on
            return self._note_fault(watched, error)
        finally:
            stuck.cancel()
            watched.is_in_pass = False
        if watched.is_logged:
            _log.info(watched.job.recovered, job=watched.job.name)
        if watched.note_well():
            self._notify()
        return _Due(0.0, watched.job.interval if seconds is None else seconds)

    def _note_stuck(self, watched: _Watched, began: datetime) -> None:
        message = f"a pass has been running since {began:%Y-%m-%dT%H:%M:%SZ}"
        watched.is_logged = True
        _log.error("job.stuck", job=watched.job.name, message=message)
        watched.note_failure(message, began)
        self._notify()

    def _note_foreseen(self, watched: _Watched, error: OtahsmError | OSError) -> _Due:
        job, message = watched.job, error.message if isinstance(error, OtahsmError) else str(error)
        if message != watched.state.message and not isinstance(error, job.logged_elsewhere):
            watched.is_logged = True
            ours = isinstance(error, OtahsmError)
            more = {"reason": error.reason, "hint": error.hint} if ours else {}  # type: ignore[union-attr]
            _log.error(job.failing, job=job.name, message=message, **more)
        if watched.note_failure(message, self._clock()):
            self._notify()
        longest = max(job.interval, job.retry_seconds)
        seconds = _doubled(min(job.interval, _SHORTEST_REST), watched.failures_in_a_row, longest)
        rest = min(seconds, _SHORTEST_REST)
        return _Due(rest, seconds - rest)

    def _note_fault(self, watched: _Watched, error: Exception) -> _Due:
        watched.is_logged = True
        if watched.note_failure(f"a fault in otahsm: {error!r}", self._clock()):
            self._notify()
        watched.note_fault()
        count = watched.faults_in_a_row
        rest = _doubled(_SHORTEST_REST, count, _LONGEST_REST)
        _log.error("job.failed", job=watched.job.name, in_a_row=count, exc_info=error)
        if count >= MAX_FAULTS:
            self._give_up(f"the job {watched.job.name} failed {count} times in a row: {error!r}")
        return _Due(rest, 0.0)

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def _note_end(self, job: Job, task: asyncio.Task[None]) -> None:
        """Give up if a job has ended that nobody closed: a cancellation may come from anywhere."""
        if not self._closing.is_set():
            why = "it was cancelled" if task.cancelled() else repr(task.exception())
            self._give_up(f"the job {job.name} ended: {why}")

    def _give_up(self, message: str) -> None:
        self._hopeless = self._hopeless or DaemonFailedError(message)
        self._has_given_up.set()


class _Watched:
    """A job, and how it is."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self.state = JobState(job.name)
        self.is_in_pass = False
        self.is_logged = False  # whether the log has a failure that is not over
        self.failures_in_a_row = 0
        self.faults_in_a_row = 0

    def note_well(self) -> bool:
        """Record that a pass went well; return whether that is news."""
        is_news = self.state.failing_since is not None
        self.state = JobState(self.job.name, faults=self.state.faults)
        self.is_logged = False
        self.failures_in_a_row = self.faults_in_a_row = 0
        return is_news

    def note_failure(self, message: str, now: datetime) -> bool:
        """Record that a pass failed; return whether that is news."""
        is_news = message != self.state.message
        self.failures_in_a_row += 1
        self.state = self.state._replace(failing_since=self.state.failing_since or now, message=message)
        return is_news

    def note_fault(self) -> None:
        self.faults_in_a_row += 1
        self.state = self.state._replace(faults=self.state.faults + 1)


def _doubled(first: float, times: int, longest: float) -> float:
    """Return the wait after so many failures in a row: twice as long each time, up to the longest."""
    return min(first * 2.0 ** min(times - 1, 16), longest)
