"""The queue: batches are what waits, bounded, and nobody's orders get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from otahsm.errors import InProgressError
from otahsm.issuance import Caller, Order, Outcome
from otahsm.issuance.queue import IssuanceQueue

CALLER = Caller("cn:test", bytes(32))


def order(name: str) -> Order:
    return Order(CALLER, name, "", "", b"")


class Cycle:
    """Stands where the cycle stands: answers each order with its name, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()

    async def issue(self, orders: Sequence[Order]) -> list[Outcome]:
        self.batches.append([item.request_id for item in orders])
        await self.gate.wait()
        return [InProgressError(item.request_id) for item in orders]


def names(outcomes: list[Outcome]) -> list[str]:
    return [str(outcome) for outcome in outcomes]


async def test_a_lone_order_is_not_held_back() -> None:
    cycle = Cycle()
    cycle.gate.set()
    queue = IssuanceQueue(cycle.issue, batch_size=64, places=1)
    await queue.start()
    assert names(await queue.submit([order("a")])) == ["a"]
    await queue.close(30)


async def test_what_waits_while_the_cycle_is_busy_becomes_one_batch() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, batch_size=64, places=1)
    await queue.start()
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


async def test_a_batch_has_at_most_the_batch_size_unless_one_message_is_larger() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, batch_size=4, places=1)
    submissions = [asyncio.create_task(queue.submit([order("x")] * size)) for size in (1, 3, 1, 6, 2)]
    await asyncio.sleep(0)  # every submission is in the queue before the feeder starts
    await queue.start()
    cycle.gate.set()
    await asyncio.gather(*submissions)
    assert [len(batch) for batch in cycle.batches] == [4, 7, 2]
    await queue.close(30)


async def test_no_more_batches_are_in_the_cycle_than_there_are_places() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, batch_size=1, places=3)
    submissions = [asyncio.create_task(queue.submit([order(str(n))])) for n in range(10)]
    await queue.start()
    while len(cycle.batches) < 3:
        await asyncio.wait(submissions, timeout=0.001)
    await asyncio.wait(submissions, timeout=0.02)
    assert len(cycle.batches) == 3
    cycle.gate.set()
    await asyncio.gather(*submissions)
    await queue.close(30)


async def test_a_full_queue_makes_its_clients_wait() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, batch_size=1, places=1)
    submissions = [asyncio.create_task(queue.submit([order(str(n))])) for n in range(200)]
    await asyncio.sleep(0)
    assert queue._waiting.qsize() == 64
    await queue.start()
    cycle.gate.set()
    answers = await asyncio.gather(*submissions)
    assert [names(answer) for answer in answers] == [[str(n)] for n in range(200)]
    await queue.close(30)


async def test_a_caller_that_stops_waiting_does_not_stop_its_order_or_its_neighbours() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, batch_size=64, places=1)
    impatient = asyncio.create_task(queue.submit([order("impatient")]))
    patient = asyncio.create_task(queue.submit([order("patient")]))
    await asyncio.sleep(0)
    await queue.start()
    while not cycle.batches:
        await asyncio.wait({patient}, timeout=0.001)
    impatient.cancel()
    cycle.gate.set()
    assert names(await patient) == ["patient"]
    assert cycle.batches == [["impatient", "patient"]]
    await queue.close(30)


async def test_closing_answers_everything_that_was_submitted() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, batch_size=2, places=2)
    await queue.start()
    submissions = [asyncio.create_task(queue.submit([order(str(n))])) for n in range(30)]
    await asyncio.sleep(0)
    cycle.gate.set()
    await queue.close(30)
    assert all(task.done() for task in submissions)


async def test_a_fault_in_the_cycle_reaches_every_caller_of_the_batch_and_no_other() -> None:
    async def broken(orders: Sequence[Order]) -> list[Outcome]:
        if any(item.request_id == "bad" for item in orders):
            raise ZeroDivisionError
        return [InProgressError(item.request_id) for item in orders]

    queue = IssuanceQueue(broken, batch_size=1, places=1)
    await queue.start()
    with pytest.raises(ZeroDivisionError):
        await queue.submit([order("bad")])
    assert names(await queue.submit([order("good")])) == ["good"]
    await queue.close(30)


async def test_closing_cuts_off_what_does_not_end_in_time() -> None:
    cycle = Cycle()
    queue = IssuanceQueue(cycle.issue, batch_size=1, places=1)
    await queue.start()
    submissions = [asyncio.create_task(queue.submit([order(str(n))])) for n in range(3)]
    while not cycle.batches:
        await asyncio.wait(submissions, timeout=0.001)
    await queue.close(0)
    assert cycle.batches == [["0"]]
    assert submissions[0].cancelled()
    for task in submissions:
        task.cancel()
