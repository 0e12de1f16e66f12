"""The queue: batches are what waits, bounded, and nobody's orders get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from otahsm.authority import Caller, IssuanceRequest, Outcome
from otahsm.errors import InProgressError
from otahsm.issuance.queue import IssuanceQueue


def order(name: str, client: str = "cn:test") -> IssuanceRequest:
    return IssuanceRequest(Caller(client, bytes(32)), name, "", "", b"")


def identity_of(caller: Caller) -> str:
    return caller.identity


class Cycle:
    """Stands where the cycle stands: answers each order with its name, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()

    async def issue(self, orders: Sequence[IssuanceRequest]) -> list[Outcome]:
        self.batches.append([item.request_id for item in orders])
        await self.gate.wait()
        return [InProgressError(item.request_id) for item in orders]


def names(outcomes: list[Outcome]) -> list[str]:
    return [str(outcome) for outcome in outcomes]


async def test_a_lone_order_is_not_held_back() -> None:
    cycle = Cycle()
    cycle.gate.set()
    queue = IssuanceQueue(cycle.issue, group_size=64, slots=1, client_of=identity_of)
    queue.start()
    assert names(await queue.submit([order("a")])) == ["a"]
    await queue.close(30)


async def test_what_waits_while_the_cycle_is_busy_becomes_one_batch() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=64, slots=1, client_of=identity_of)
    queue.start()
    submissions = [asyncio.create_task(queue.submit([order("first")]))]
    while not cycle.batches:
        await asyncio.wait(submissions, timeout=0.001)
    submissions += [asyncio.create_task(queue.submit([order(str(n)), order(f"{n}+")])) for n in range(3)]
    await asyncio.sleep(0)
    cycle.gate.set()
    answers = await asyncio.gather(*submissions)
    assert [names(answer) for answer in answers] == [["first"], ["0", "0+"], ["1", "1+"], ["2", "2+"]]
    assert cycle.batches == [["first"], ["0", "0+", "1", "1+", "2", "2+"]]
    await queue.close(30)


async def test_a_batch_is_never_larger_than_the_batch_size_and_messages_are_divided_for_it() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=4, slots=1, client_of=identity_of)
    wanted = [[f"{size}/{number}" for number in range(size)] for size in (1, 3, 1, 6, 2)]
    submissions = [asyncio.create_task(queue.submit([order(name) for name in message])) for message in wanted]
    await asyncio.sleep(0)  # every submission is in the queue before the feeder starts
    queue.start()
    cycle.gate.set()
    answers = await asyncio.gather(*submissions)
    assert [names(answer) for answer in answers] == wanted
    assert [len(batch) for batch in cycle.batches] == [4, 4, 4, 1]
    await queue.close(30)


async def test_a_client_with_a_million_requests_does_not_starve_one_that_asks_for_one() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=8, slots=1, client_of=identity_of)
    greedy = [
        asyncio.create_task(queue.submit([order(f"greedy-{number}", "cn:greedy")] * 256))
        for number in range(20)
    ]
    await asyncio.sleep(0)
    queue.start()
    while not cycle.batches:
        await asyncio.wait(greedy, timeout=0.001)
    modest = asyncio.create_task(queue.submit([order("modest", "cn:modest")]))
    await asyncio.sleep(0)
    cycle.gate.set()
    assert names(await modest) == ["modest"]
    assert [len(batch) for batch in cycle.batches[:2]] == [8, 8]
    assert "modest" in cycle.batches[1]
    assert not any(task.done() for task in greedy)
    for task in greedy:
        task.cancel()
    await queue.close(0)


async def test_clients_share_a_batch_equally_and_what_one_leaves_goes_to_the_others() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=12, slots=1, client_of=identity_of)
    wants = {"a": 100, "b": 100, "c": 2}
    submissions = [
        asyncio.create_task(queue.submit([order(name, f"cn:{name}")] * count))
        for name, count in wants.items()
    ]
    await asyncio.sleep(0)
    queue.start()
    cycle.gate.set()
    await asyncio.gather(*submissions)
    shares = [{name: batch.count(name) for name in wants} for batch in cycle.batches]
    assert shares[0] == {"a": 6, "b": 4, "c": 2}
    assert shares[1:3] == [{"a": 6, "b": 6, "c": 0}] * 2
    assert sum(map(len, cycle.batches)) == 202
    await queue.close(30)


async def test_no_more_batches_are_in_the_cycle_than_there_are_places() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=1, slots=3, client_of=identity_of)
    submissions = [asyncio.create_task(queue.submit([order(str(n))])) for n in range(10)]
    queue.start()
    while len(cycle.batches) < 3:
        await asyncio.wait(submissions, timeout=0.001)
    await asyncio.wait(submissions, timeout=0.02)
    assert len(cycle.batches) == 3
    cycle.gate.set()
    await asyncio.gather(*submissions)
    await queue.close(30)


async def test_a_client_whose_line_is_full_waits_and_nobody_else_does() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=64, slots=1, client_of=identity_of)
    submissions = [asyncio.create_task(queue.submit([order(str(n))] * 64)) for n in range(100)]
    await asyncio.sleep(0)
    assert queue._unsettled == 1024
    other = asyncio.create_task(queue.submit([order("other", "cn:other")]))
    await asyncio.sleep(0)
    assert queue._unsettled == 1025
    queue.start()
    cycle.gate.set()
    answers = await asyncio.gather(*submissions)
    assert [set(names(answer)) for answer in answers] == [{str(n)} for n in range(100)]
    assert names(await other) == ["other"]
    assert not queue._lines  # nothing is kept of clients that have gone
    await queue.close(30)


async def test_a_caller_that_stops_waiting_does_not_stop_its_order_or_its_neighbours() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=64, slots=1, client_of=identity_of)
    impatient = asyncio.create_task(queue.submit([order("impatient")]))
    patient = asyncio.create_task(queue.submit([order("patient")]))
    await asyncio.sleep(0)
    queue.start()
    while not cycle.batches:
        await asyncio.wait({patient}, timeout=0.001)
    impatient.cancel()
    cycle.gate.set()
    assert names(await patient) == ["patient"]
    assert cycle.batches == [["impatient", "patient"]]
    await queue.close(30)


async def test_closing_answers_everything_that_was_submitted() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=2, slots=2, client_of=identity_of)
    queue.start()
    submissions = [asyncio.create_task(queue.submit([order(str(n))])) for n in range(30)]
    await asyncio.sleep(0)
    cycle.gate.set()
    await queue.close(30)
    assert all(task.done() for task in submissions)


async def test_a_fault_in_the_cycle_reaches_every_caller_of_the_batch_and_no_other() -> None:
    async def broken(orders: Sequence[IssuanceRequest]) -> list[Outcome]:
        if any(item.request_id == "bad" for item in orders):
            raise ZeroDivisionError
        return [InProgressError(item.request_id) for item in orders]

    queue = IssuanceQueue(broken, group_size=1, slots=1, client_of=identity_of)
    queue.start()
    with pytest.raises(ZeroDivisionError):
        await queue.submit([order("bad")])
    assert names(await queue.submit([order("good")])) == ["good"]
    await queue.close(30)


async def test_closing_cuts_off_what_does_not_end_in_time() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, group_size=1, slots=1, client_of=identity_of)
    queue.start()
    submissions = [asyncio.create_task(queue.submit([order(str(n))])) for n in range(3)]
    while not cycle.batches:
        await asyncio.wait(submissions, timeout=0.001)
    await queue.close(0)
    assert cycle.batches == [["0"]]
    assert submissions[0].cancelled()
    for task in submissions:
        task.cancel()
