"""The queue in front of the cycle: it makes batches of what many clients ask for at once.

A batch is whatever waits when a place in the cycle gets free, up to a limit. So a lone request is never
held back, and under load batches grow by themselves. Queue and places are bounded (I6): when both are
full, `submit` waits, and with it the client's stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from otahsm.issuance.values import Order, Outcome

_WAITING: Final = 64  # submissions, each of one message: 1 to 256 orders


class _Submission(NamedTuple):
    orders: Sequence[Order]
    answer: asyncio.Future[list[Outcome]]


class IssuanceQueue:
    """Feeds `issue` with batches.

    Args:
        issue: takes a batch through the cycle.
        batch_size: how many orders make a full batch; a single larger submission is not divided.
        places: how many batches may be in the cycle at once.
    """

    def __init__(
        self, issue: Callable[[Sequence[Order]], Awaitable[list[Outcome]]], *, batch_size: int, places: int
    ) -> None:
        self._issue = issue
        self._batch_size = batch_size
        self._places = asyncio.Semaphore(places)
        self._waiting: asyncio.Queue[_Submission] = asyncio.Queue(_WAITING)
        self._running: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take batches."""
        self._feeder = asyncio.create_task(self._feed())

    async def submit(self, orders: Sequence[Order]) -> list[Outcome]:
        """Wait for a turn, then for the outcomes, one for each order and in order.

        A caller that stops waiting does not stop its orders.
        """
        submission = _Submission(orders, asyncio.get_running_loop().create_future())
        await self._waiting.put(submission)
        return await submission.answer

    async def close(self, within: float) -> None:
        """Return when everything that was submitted has its outcome; nothing may be submitted after that.

        What has none within so many seconds is cut off: its intents are voided, its callers get nothing.
        """
        if self._feeder is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._waiting.join()
        rest = [self._feeder, *self._running]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _feed(self) -> None:
        while True:
            await self._places.acquire()
            batch = [await self._waiting.get()]
            size = len(batch[0].orders)
            while size < self._batch_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                size += len(batch[-1].orders)
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[_Submission]) -> None:
        try:
            outcomes = iter(await self._issue([order for item in batch for order in item.orders]))
            for item in batch:
                answer = [next(outcomes) for _ in item.orders]
                if not item.answer.done():
                    item.answer.set_result(answer)
        except BaseException as error:
            for item in batch:
                if not item.answer.done():
                    item.answer.set_exception(error)
            raise
        finally:
            self._places.release()
            for _ in batch:
                self._waiting.task_done()
