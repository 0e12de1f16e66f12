"""Clients take turns on a thread: no client's many questions delay another's one by more than one of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from otahsm.system.turns import ASKING, TurnThread


@pytest.fixture
def thread() -> Iterator[TurnThread]:
    thread = TurnThread("test")
    yield thread
    thread.shutdown()


def asked_by(client: str, thread: TurnThread, order: list[str], name: str) -> asyncio.Task[None]:
    async def ask() -> None:
        ASKING.set(client)
        await thread.run(order.append, name)

    return asyncio.create_task(ask())


async def test_one_question_of_a_client_waits_for_one_of_another(thread: TurnThread) -> None:
    order: list[str] = []
    opened = threading.Event()
    first = asyncio.create_task(thread.run(opened.wait))
    await asyncio.sleep(0)
    many = [asked_by("a", thread, order, f"a{number}") for number in range(64)]
    await asyncio.sleep(0)
    others = [asked_by(client, thread, order, client) for client in ("b", "c")]
    await asyncio.sleep(0)
    opened.set()
    await asyncio.gather(first, *many, *others)
    assert order == ["a0", "b", "c", *(f"a{number}" for number in range(1, 64))]


async def test_who_gives_up_keeps_nobody_waiting(thread: TurnThread) -> None:
    order: list[str] = []
    opened = threading.Event()
    first = asyncio.create_task(thread.run(opened.wait))
    await asyncio.sleep(0)
    gone = [asked_by("a", thread, order, "a"), asked_by("b", thread, order, "b")]
    await asyncio.sleep(0)
    rest = asked_by("c", thread, order, "c")
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    opened.set()
    await asyncio.gather(first, rest)
    assert order == ["c"]
    await thread.run(order.append, "d")
    assert order == ["c", "d"]


async def test_a_question_that_fails_passes_the_turn_on(thread: TurnThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.run(divmod, 1, 0)
    assert await thread.run(divmod, 7, 2) == (3, 1)
