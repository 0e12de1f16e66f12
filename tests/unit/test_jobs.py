"""Jobs: what goes on for ever is watched. Nothing sleeps here: the waits of the supervisor are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from otahsm.authority import jobs
from otahsm.authority.jobs import MAX_FAULTS, Job, JobState, Supervisor
from otahsm.errors import DaemonFailedError, ExitCode, LedgerUnavailableError, TokenUnavailableError

NOON = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)
AWAY = TokenUnavailableError("the token is away")


class Time:
    """A time that passes when somebody waits, and not otherwise."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []
        self.wakes_at_once = False

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    async def wait(self, seconds: float, woken: asyncio.Event | None) -> None:
        if not (woken is not None and self.wakes_at_once):
            self.seconds += seconds
            self.waits.append(seconds)
        await asyncio.sleep(0)


class Passes:
    """Passes of a job that end one after the other as a list says, and after that well."""

    def __init__(self, *ends: BaseException | float | None) -> None:
        self.ends = list(ends)
        self.count = 0
        self.done = asyncio.Event()

    async def __call__(self) -> float | None:
        self.count += 1
        if not self.ends:
            self.done.set()
            await asyncio.Event().wait()
        match self.ends.pop(0):
            case BaseException() as error:
                raise error
            case seconds:
                return seconds


async def run(
    passes: Passes, time: Time | None = None, **more: Any
) -> tuple[list[JobState], list[dict[str, Any]], Time]:
    """Run a job until its passes are all done; return how it was before each pass, the log, and the time."""
    time = time or Time()
    supervisor = Supervisor(time.now, timer=lambda: time.seconds, wait=time.wait)
    states: list[JobState] = []

    async def run_once() -> float | None:
        states.append(supervisor.states[0])
        return await passes()

    usual: dict[str, Any] = {"name": "x", "run_once": run_once, "interval": 1.0}
    with capture_logs() as log:
        supervisor.start(Job(**{**usual, **more}))
        await passes.done.wait()
        await supervisor.close(0)
    return states, [dict(entry) for entry in log], time


def waited(time: Time) -> list[float]:
    return [seconds for seconds in time.waits if seconds]


async def test_a_job_that_goes_well_is_done_again_after_its_interval_or_when_it_says() -> None:
    states, log, time = await run(Passes(None, 0.5, None))
    assert waited(time) == [1.0, 0.5, 1.0]
    assert states == [JobState("x")] * 4
    assert log == []


async def test_what_is_foreseen_is_a_state_told_when_it_begins_changes_and_is_over() -> None:
    other = LedgerUnavailableError("the disk is full")
    states, log, _ = await run(Passes(AWAY, AWAY, other, OSError(28, "No space left"), None))
    assert [(entry["event"], entry.get("reason"), entry.get("message")) for entry in log] == [
        ("job.waiting", "TOKEN_UNAVAILABLE", "the token is away"),
        ("job.waiting", "LEDGER_UNAVAILABLE", "the disk is full"),
        ("job.waiting", None, "No space left"),
        ("job.recovered", None, None),
    ]
    assert all(entry["job"] == "x" for entry in log)
    assert [state.message for state in states[1:5]] == [
        "the token is away",
        "the token is away",
        "the disk is full",
        "No space left",
    ]
    assert {state.failing_since for state in states[1:5]} == {NOON}
    assert states[5] == JobState("x")


async def test_what_is_foreseen_never_ends_the_daemon_and_is_tried_every_few_seconds() -> None:
    time = Time()
    supervisor = Supervisor(time.now, timer=lambda: time.seconds, wait=time.wait)
    passes = Passes(*[AWAY] * 100)
    watching = asyncio.create_task(supervisor.watch())
    supervisor.start(Job(name="x", run_once=passes, interval=1.0))
    await passes.done.wait()
    assert not watching.done()
    assert sum(time.waits[:10]) < 30
    assert 450 < time.seconds < 501  # not more seldom than every 5 s
    watching.cancel()
    await supervisor.close(0)


@pytest.mark.parametrize("interval", [0.1, 1.0, 5.0, 60.0])
async def test_the_wait_after_a_failure_grows_up_to_a_limit(interval: float) -> None:
    _, _, time = await run(Passes(*[AWAY] * 50), interval=interval)
    assert max(time.waits) <= max(interval, 5.0)
    assert time.seconds > 40 * max(interval, 5.0)


async def test_who_wakes_a_job_that_failed_has_it_rest_for_a_second_all_the_same() -> None:
    time = Time()
    time.wakes_at_once = True
    _, _, time = await run(Passes(None, *[AWAY] * 20), time, woken=asyncio.Event())
    assert waited(time) == [1.0] * 20


async def test_a_job_names_its_failures_and_leaves_to_others_what_they_tell() -> None:
    _, log, _ = await run(Passes(AWAY, None), failing="crl.failed", recovered="crl.again")
    assert [entry["event"] for entry in log] == ["crl.failed", "crl.again"]
    states, log, _ = await run(Passes(AWAY, None), logged_elsewhere=(TokenUnavailableError,))
    assert log == []
    assert states[1].message == "the token is away"


async def test_what_nobody_foresaw_is_logged_each_time_with_its_traceback_and_counted() -> None:
    fault = ZeroDivisionError("by zero")
    states, log, time = await run(Passes(fault, fault, fault, None, AWAY, None))
    failed = [entry for entry in log if entry["event"] == "job.failed"]
    assert [entry["in_a_row"] for entry in failed] == [1, 2, 3]
    assert all(entry["exc_info"] is fault for entry in failed)
    assert waited(time)[:4] == [1.0, 2.0, 4.0, 1.0]
    assert states[2].message == "internal error: ZeroDivisionError('by zero')"
    assert states[3].failing_since == NOON
    assert states[-1] == JobState("x", faults=3)
    assert [entry["event"] for entry in log][3:] == ["job.recovered", "job.waiting", "job.recovered"]


async def test_a_fault_that_repeats_ends_the_daemon_so_that_it_is_started_again() -> None:
    time = Time()
    supervisor = Supervisor(time.now, timer=lambda: time.seconds, wait=time.wait)
    watching = asyncio.create_task(supervisor.watch())
    fault = KeyError("gone")
    passes = Passes(*[fault] * (MAX_FAULTS - 1), None, *[fault] * MAX_FAULTS)
    well = Passes(*[None] * 1000)
    with capture_logs():
        supervisor.start(Job(name="bad", run_once=passes, interval=1.0))
        supervisor.start(Job(name="good", run_once=well, interval=1.0))
        async with asyncio.timeout(10):
            with pytest.raises(DaemonFailedError, match=f"the job bad failed {MAX_FAULTS} times") as raised:
                await watching
    assert passes.count == 2 * MAX_FAULTS
    assert raised.value.exit_code is ExitCode.UNAVAILABLE  # the unit restarts it, unlike after 2 and 4
    assert well.count > MAX_FAULTS
    assert max(time.waits) <= 30
    await supervisor.close(0)


async def test_a_job_that_is_never_well_ends_the_daemon_whatever_else_fails_between_its_faults() -> None:
    time = Time()
    supervisor = Supervisor(time.now, timer=lambda: time.seconds, wait=time.wait)
    passes = Passes(*[KeyError("gone"), AWAY] * MAX_FAULTS)
    with capture_logs():
        supervisor.start(Job(name="bad", run_once=passes, interval=1.0))
        async with asyncio.timeout(10):
            with pytest.raises(DaemonFailedError, match=f"the job bad failed {MAX_FAULTS} times"):
                await supervisor.watch()
    await supervisor.close(0)


async def test_a_pass_that_hangs_is_shown_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LONG_PASS", 0.01)
    time = Time()
    supervisor = Supervisor(time.now, timer=lambda: time.seconds, wait=time.wait)
    hung, may_go_on = asyncio.Event(), asyncio.Event()
    supervisor.on_change(hung.set)

    async def hang() -> float:
        await may_go_on.wait()
        return 3600.0

    with capture_logs() as log:
        supervisor.start(Job(name="x", run_once=hang, interval=1.0))
        async with asyncio.timeout(10):
            await hung.wait()
            message = "a pass has been running since 2030-06-01T12:00:00Z"
            assert supervisor.states == [JobState("x", NOON, message)]
            may_go_on.set()
            while supervisor.states != [JobState("x")]:
                await asyncio.sleep(0)
    assert [entry["event"] for entry in log] == ["job.stuck", "job.recovered"]
    await supervisor.close(0)


async def test_a_job_that_ends_does_so_not_unseen() -> None:
    supervisor = Supervisor(Time().now)

    async def cancelled() -> None:
        raise asyncio.CancelledError

    supervisor.start(Job(name="x", run_once=cancelled, interval=1.0))
    async with asyncio.timeout(10):
        with pytest.raises(DaemonFailedError, match="the job x ended: it was cancelled"):
            await supervisor.watch()
    await supervisor.close(0)


async def test_a_task_that_is_guarded_may_be_cancelled_and_not_end() -> None:
    supervisor = Supervisor(Time().now)

    async def fail() -> None:
        raise ZeroDivisionError

    asleep = asyncio.create_task(asyncio.Event().wait())
    supervisor.guard("a", asleep)  # type: ignore[arg-type]
    asleep.cancel()
    await asyncio.wait([asleep])
    watching = asyncio.create_task(supervisor.watch())
    await asyncio.sleep(0)
    assert not watching.done()
    supervisor.guard("the queue", asyncio.create_task(fail()))
    async with asyncio.timeout(10):
        with pytest.raises(DaemonFailedError, match=r"the queue ended: ZeroDivisionError\(\)"):
            await watching


async def test_who_listens_hears_of_each_change_once() -> None:
    time = Time()
    supervisor = Supervisor(time.now, timer=lambda: time.seconds, wait=time.wait)
    heard: list[str] = []
    supervisor.on_change(lambda: heard.append(supervisor.states[0].message))
    passes = Passes(None, AWAY, AWAY, OSError("other"), None, None, AWAY)
    supervisor.start(Job(name="x", run_once=passes, interval=1.0))
    await passes.done.wait()
    await supervisor.close(0)
    assert heard == ["the token is away", "other", "", "the token is away"]


async def test_a_job_takes_half_of_the_time_at_most() -> None:
    time = Time()
    time.wakes_at_once = True

    async def slow() -> None:
        time.seconds += 0.25

    supervisor = Supervisor(time.now, timer=lambda: time.seconds, wait=time.wait)
    supervisor.start(Job(name="x", run_once=slow, interval=1.0, woken=asyncio.Event()))
    while len(time.waits) < 10:
        await asyncio.sleep(0)
    assert set(time.waits) == {0.25}
    await supervisor.close(0)


async def test_the_first_pass_waits_for_what_the_job_comes_after_even_if_that_fails() -> None:
    order: list[str] = []

    def step(name: str, error: Exception | None = None) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            order.append(name)
            if error is not None:
                raise error

        return work

    supervisor = Supervisor(Time().now)
    done = asyncio.Event()

    async def run_once() -> None:
        order.append("pass")
        done.set()

    for error in (AWAY, ZeroDivisionError()):
        done.clear()
        order.clear()
        supervisor.start(Job(name="x", run_once=run_once, interval=60.0, after=step("before", error)))
        async with asyncio.timeout(10):
            await done.wait()
        assert order == ["before", "pass"]
    await supervisor.close(0)


async def test_a_pass_that_runs_at_the_end_is_finished_and_what_only_waits_is_not_waited_for() -> None:
    supervisor = Supervisor(Time().now)
    begun, may_end = asyncio.Event(), asyncio.Event()
    finished: list[str] = []

    async def long() -> None:
        begun.set()
        await may_end.wait()
        finished.append("long")

    async def never() -> None:
        await asyncio.Event().wait()

    supervisor.start(Job(name="long", run_once=long, interval=1.0))
    supervisor.start(Job(name="asleep", run_once=lambda: asyncio.sleep(0, None), interval=3600.0))
    supervisor.start(Job(name="not begun", run_once=never, interval=1.0, after=never))
    await begun.wait()
    closing = asyncio.create_task(supervisor.close(30))
    await asyncio.sleep(0)
    may_end.set()
    async with asyncio.timeout(5):
        await closing
    assert finished == ["long"]


async def test_a_pass_that_does_not_end_is_given_up() -> None:
    supervisor = Supervisor(Time().now)
    ended = asyncio.Event()

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    supervisor.start(Job(name="stuck", run_once=stuck, interval=1.0))
    await asyncio.sleep(0)
    await supervisor.close(0.01)
    assert ended.is_set()
