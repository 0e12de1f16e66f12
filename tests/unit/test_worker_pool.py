"""The pool, with real processes that die, hang, lie and refuse."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from otahsm.errors import (
    OtahsmError,
    TokenRefusedError,
    TokenUnavailableError,
    WorkerLostError,
    WorkersBusyError,
    WorkerSuspectError,
)
from otahsm.workers import frames
from otahsm.workers.pool import WorkerPool

from support.harness import READY_SECONDS

Events = list[tuple[str, int, OtahsmError | None]]


@asynccontextmanager
async def pool_of(
    size: int,
    *,
    mode: bytes = b"work",
    call_seconds: float = 30,
    wait_seconds: float = 30,
    probe: bytes = b"",
    believes: bool = True,
) -> AsyncIterator[tuple[WorkerPool, Events]]:
    events: Events = []
    pool = WorkerPool(
        "worker",
        "support.workers.worker_for_tests",
        [mode],
        size=size,
        environment={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        call_seconds=call_seconds,
        wait_seconds=wait_seconds,
        probe=[probe] if probe else (),
        probe_seconds=0.05,
        longest_pause=0.25,
        report=lambda *event: events.append(event),
        believes=believes,
    )
    await pool.start()
    try:
        yield pool, events
    finally:
        await pool.close()


async def test_a_batch_is_answered_and_the_processes_are_reused() -> None:
    async with pool_of(2) as (pool, _):
        pids = {(await pool.call([b"x"]))[0] for _ in range(10)}
        assert 1 <= len(pids) <= 2
        pid, *parts = await pool.call([b"a", b"", b"b" * 100_000])
        assert parts == [b"a", b"", b"b" * 100_000]
        assert pool.ready == 2 or pid in pids
        assert len(await pool.call([])) == 1  # an empty batch is a batch, and not the end


async def test_two_batches_are_worked_on_at_once() -> None:
    async with pool_of(2) as (pool, _):
        answers = await asyncio.gather(*(pool.call([b"x"]) for _ in range(20)))
        assert all(answer[1:] == [b"x"] for answer in answers)


async def test_a_worker_that_dies_is_replaced_and_its_batch_is_given_to_another(tmp_path: Path) -> None:
    marker = str(tmp_path / "died").encode()
    async with pool_of(1) as (pool, events):
        pid, *_ = await pool.call([b"die-once:" + marker])
        assert [event for event, *_ in events].count("worker.ready") == 2
        lost = next(item for item in events if item[0] == "worker.lost")
        assert lost[1] != int(pid)
        assert isinstance(lost[2], WorkerLostError)


async def test_a_batch_that_kills_two_workers_is_given_up() -> None:
    async with pool_of(2) as (pool, _):
        with pytest.raises(WorkerLostError):
            await pool.call([b"die"])
        assert (await pool.call([b"x"]))[1:] == [b"x"]


async def test_a_worker_that_hangs_is_killed_and_its_batch_given_up_after_the_second() -> None:
    async with pool_of(2, call_seconds=0.3) as (pool, _):
        await pool.wait_until_ready()
        with pytest.raises(WorkerLostError, match="did not respond within"):
            await pool.call([b"hang"])


async def test_a_worker_that_is_not_believed_hangs_whatever_it_says_of_its_progress() -> None:
    slow = [b"slowly", *[b"x"] * 20]  # 2 seconds, with a word every 0.1
    async with pool_of(1, call_seconds=1, believes=True) as (pool, _):
        assert await pool.call(slow) == slow
    async with pool_of(1, call_seconds=1, believes=False) as (pool, _):
        with pytest.raises(WorkerLostError, match="did not respond within"):
            await pool.call(slow)


async def test_a_worker_whose_answer_can_not_be_true_is_killed_and_another_is_asked() -> None:
    told: list[bytes] = []

    def read(response: list[bytes]) -> bytes:
        told.append(response[0])
        if len(told) == 1:
            raise ValueError("it said what is not in the CSR")
        return response[0]

    async with pool_of(1) as (pool, events):
        assert await pool.ask([b"x"], read) == told[1] != told[0]
        (lost,) = (error for event, _, error in events if event == "worker.lost")
    assert isinstance(lost, WorkerSuspectError)
    assert "was killed: it said what is not in the CSR" in lost.message


async def test_two_workers_whose_answers_can_not_be_true_are_enough() -> None:
    def read(_: list[bytes]) -> None:
        raise ValueError("it lies")

    async with pool_of(1) as (pool, _):
        with pytest.raises(WorkerSuspectError, match="it lies"):
            await pool.ask([b"x"], read)
        assert (await pool.call([b"x"]))[1:] == [b"x"]


async def test_what_a_vendors_library_prints_does_not_disturb_the_pipe() -> None:
    async with pool_of(1) as (pool, events):
        assert (await pool.call([b"print"]))[1:] == [b"print"]
        assert [event for event, *_ in events] == ["worker.ready"]


async def test_a_worker_that_breaks_the_protocol_is_killed() -> None:
    async with pool_of(2) as (pool, _):
        with pytest.raises(WorkerLostError, match="violated the protocol"):
            await pool.call([b"garbage"])


async def test_an_error_that_a_worker_reports_reaches_the_caller_and_ends_the_worker() -> None:
    async with pool_of(2) as (pool, events):
        with pytest.raises(TokenUnavailableError, match="sulks") as caught:
            await pool.call([b"error"])
        assert caught.value.hint == "wait"
        await pool.call([b"x"])
        assert any(
            event == "worker.lost" and isinstance(error, TokenUnavailableError) for event, _, error in events
        )


async def test_a_refusal_at_the_start_is_final() -> None:
    async with pool_of(2, mode=b"refuse") as (pool, events):
        with pytest.raises(TokenRefusedError, match="don't ask again") as caught:
            await pool.wait_until_ready()
        assert caught.value.hint == "ask an operator"
        with pytest.raises(TokenRefusedError):
            await pool.call([b"x"])
        assert {event for event, *_ in events} == {"worker.failed"}
        assert pool.stopped


async def test_what_an_operator_mends_is_noticed(tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    async with pool_of(2, mode=b"refuse-until:" + bytes(mended)) as (pool, events):
        with pytest.raises(TokenRefusedError, match="don't ask again"):
            await pool.wait_until_ready()
        mended.touch()
        while pool.ready < 2:
            await asyncio.sleep(0.01)
        assert not pool.stopped
        assert pool.failure is None
        assert (await pool.call([b"x"]))[1:] == [b"x"]
        assert events[0][0] == "worker.failed"


async def test_while_none_lives_one_at_a_time_is_started(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    async with pool_of(8, mode=b"fail-alone:" + bytes(starts)) as (pool, events):
        while len(events) < 6:
            await asyncio.sleep(0.01)
        assert [str(error) for _, _, error in events] == ["I was alone"] * len(events)
        (starts / "enough").touch()
        while pool.ready < 8:
            await asyncio.sleep(0.01)


async def test_a_batch_that_takes_long_but_gets_on_is_no_hang() -> None:
    async with pool_of(1, call_seconds=0.4) as (pool, events):
        await pool.wait_until_ready()
        assert len(await pool.call([b"slowly"] * 10)) == 10  # 0.1 s each
        with pytest.raises(WorkerLostError, match="did not respond within"):
            await pool.call([b"slowly", b"hang", b"slowly"])
        assert [event for event, *_ in events].count("worker.ready") == 2  # one hung, and another, once


async def test_a_batch_waits_for_a_free_worker_only_so_long() -> None:
    async with pool_of(1, call_seconds=60, wait_seconds=0.2) as (pool, _):
        await pool.wait_until_ready()
        hanging = asyncio.create_task(pool.call([b"hang"]))
        await asyncio.sleep(0)
        with pytest.raises(WorkersBusyError):
            await pool.call([b"x"])
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)


async def test_a_call_that_is_cancelled_leaves_no_half_read_answer_behind() -> None:
    async with pool_of(1) as (pool, _):
        await pool.wait_until_ready()
        hanging = asyncio.create_task(pool.call([b"hang"]))
        await asyncio.sleep(0.05)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        assert (await pool.call([b"x"]))[1:] == [b"x"]


async def test_an_idle_worker_that_can_no_longer_work_is_found_by_the_probe() -> None:
    async with pool_of(1, probe=b"error") as (pool, events):
        await pool.wait_until_ready()
        async with asyncio.timeout(READY_SECONDS):
            while len(events) == 1:
                await asyncio.sleep(0.01)
        event, _, error = events[1]
        assert event == "worker.lost"
        assert isinstance(error, TokenUnavailableError)


async def test_a_worker_that_can_not_be_watched_is_replaced_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, started = os.pidfd_open, []

    def out_of_descriptors_at_first(pid: int) -> int:
        started.append(pid)
        if len(started) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return watch(pid)

    monkeypatch.setattr(os, "pidfd_open", out_of_descriptors_at_first)
    async with pool_of(1) as (pool, events):
        assert (await pool.call([b"x"]))[1:] == [b"x"]
        assert [event for event, *_ in events] == ["worker.failed", "worker.failed", "worker.ready"]
        assert "Too many open files" in str(events[0][2])
        for pid in started[:2]:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_a_worker_whose_answers_nobody_can_read_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pool_of(1) as (pool, events):
        await pool.wait_until_ready()
        with monkeypatch.context() as patch:
            patch.setattr(frames, "decode_body", lambda *_: 1 / 0)
            with pytest.raises(WorkerLostError, match="violated the protocol"):
                async with asyncio.timeout(READY_SECONDS):
                    await pool.call([b"x"], once=True)
        assert (await pool.call([b"x"]))[1:] == [b"x"]
        assert [event for event, *_ in events][:2] == ["worker.ready", "worker.lost"]


async def test_closing_ends_the_processes_even_one_that_hangs() -> None:
    async with pool_of(2) as (pool, events):
        await pool.wait_until_ready()
        hanging = asyncio.create_task(pool.call([b"hang"]))
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(OtahsmError):
            await hanging
        for event, pid, _ in events:
            if event == "worker.ready":
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)


async def test_workers_ignore_the_signals_that_a_whole_service_gets() -> None:
    async with pool_of(1) as (pool, events):
        pid, *_ = await pool.call([b"x"])
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(int(pid), number)
        assert (await pool.call([b"x"]))[0] == pid
        assert len(events) == 1


async def test_a_worker_leaves_no_core_dump_and_nobody_may_attach_to_it() -> None:
    async with pool_of(1) as (pool, _):
        assert await pool.call([b"hardened"]) == [b"0 (0, 0)"]
