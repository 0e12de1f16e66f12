"""The queue in front of the cycle: it makes batches of what many clients ask for, and is fair to each.

A batch is whatever waits when a place in the cycle gets free, up to a limit. So a lone request is never
held back, and under load batches grow by themselves. Clients take turns: each that waits gets an equal share
of a batch, and what some leave goes to the others. So a client with a million requests delays one that asks
for a single certificate by no more than what is in the cycle already.

Each client's line and the places are bounded (I6): when its line is full, `submit` waits, and with it that
client's streams. Nobody else's do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from otahsm.issuance.values import IssuanceRequest, Outcome

_LINE: Final = 1024  # requests of one client that may wait when it brings more


class _Submission:
    """One message of a client's; its requests may go through the cycle in several batches."""

    def __init__(self, requests: Sequence[IssuanceRequest]) -> None:
        self.requests = requests
        self.taken = 0
        self.answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._outcomes: dict[int, Outcome] = {}

    def settle(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of the requests from `first` on; answer when there are all."""
        self._outcomes.update(enumerate(outcomes, first))
        if len(self._outcomes) == len(self.requests) and not self.answer.done():
            self.answer.set_result([self._outcomes[position] for position in range(len(self.requests))])

    def fail(self, error: BaseException) -> None:
        """Answer with an error that is no outcome."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Part:
    """The requests of a submission that are in one batch."""

    def __init__(self, submission: _Submission, at_most: int) -> None:
        self.submission = submission
        self.first = submission.taken
        self.requests = submission.requests[self.first : self.first + at_most]
        submission.taken += len(self.requests)


class _Line:
    """What one client waits for."""

    def __init__(self) -> None:
        self.submissions: deque[_Submission] = deque()
        self.waiting = 0
        self._outside: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        return self.waiting >= _LINE

    async def room(self) -> None:
        """Wait until requests were taken; there is room then, if nobody was faster."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outside.append(turn)
        await turn

    def add(self, submission: _Submission) -> None:
        self.submissions.append(submission)
        self.waiting += len(submission.requests)

    def take(self, at_most: int) -> _Part:
        part = _Part(self.submissions[0], at_most)
        if part.submission.taken == len(part.submission.requests):
            self.submissions.popleft()
        self.waiting -= len(part.requests)
        # One for each request that was taken, and not all: there may be thousands, and room for few.
        come_in = min(len(part.requests), len(self._outside)) if self.waiting else len(self._outside)
        for turn in [self._outside.popleft() for _ in range(come_in)]:
            if not turn.done():
                turn.set_result(None)
        return part


class IssuanceQueue:
    """Feeds `issue` with batches.

    Args:
        issue: takes a batch through the cycle.
        batch_size: how many requests make a full batch.
        places: how many batches may be in the cycle at once.
    """

    def __init__(
        self,
        issue: Callable[[Sequence[IssuanceRequest]], Awaitable[list[Outcome]]],
        *,
        batch_size: int,
        places: int,
    ) -> None:
        self._issue = issue
        self._batch_size = batch_size
        self._places = asyncio.Semaphore(places)
        self._lines: dict[str, _Line] = {}  # of the clients that wait, in the order of their turns
        self._arrived = asyncio.Event()
        self._unsettled = 0  # requests, in lines and in the cycle
        self._settled = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to take batches; return the task that does so until `close`."""
        self._feeder = asyncio.create_task(self._feed())
        return self._feeder

    async def submit(self, requests: Sequence[IssuanceRequest]) -> list[Outcome]:
        """Wait for a turn, then for the outcomes, one for each order and in order.

        A caller that stops waiting does not stop its requests.

        Args:
            requests: at least one; all of one client.
        """
        client = requests[0].caller.identity
        while (line := self._lines.get(client)) and line.full:
            await line.room()
        line = self._lines.setdefault(client, line or _Line())
        submission = _Submission(requests)
        line.add(submission)
        self._count(len(requests))
        self._arrived.set()
        return await submission.answer

    async def close(self, within: float) -> None:
        """Return when everything that was submitted has its outcome; nothing may be submitted after that.

        What has none within so many seconds is cut off: its intents are voided, its callers get nothing.
        """
        if self._feeder is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._unsettled:
                    await self._settled.wait()
        rest = [self._feeder, *self._running]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _feed(self) -> None:
        while True:
            await self._places.acquire()
            while not self._lines:
                self._arrived.clear()
                await self._arrived.wait()
            task = asyncio.create_task(self._run(self._next_batch()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next_batch(self) -> list[_Part]:
        """Take an equal share from each line, and go round until the batch is full or the lines are empty."""
        room = self._batch_size
        share = max(1, room // len(self._lines))
        batch: list[_Part] = []
        while room and self._lines:
            client, line = next(iter(self._lines.items()))
            del self._lines[client]  # its next turn comes after everybody else's
            left = min(share, room)
            while left and line.submissions:
                batch.append(line.take(left))
                left -= len(batch[-1].requests)
                room -= len(batch[-1].requests)
            if line.submissions:
                self._lines[client] = line
        return batch

    async def _run(self, batch: list[_Part]) -> None:
        requests = [request for part in batch for request in part.requests]
        try:
            outcomes = await self._issue(requests)
            at = 0
            for part in batch:
                part.submission.settle(part.first, outcomes[at : at + len(part.requests)])
                at += len(part.requests)
        except BaseException as error:
            for part in batch:
                part.submission.fail(error)
            raise
        finally:
            self._places.release()
            self._count(-len(requests))

    def _count(self, change: int) -> None:
        self._unsettled += change
        if self._unsettled:
            self._settled.clear()
        else:
            self._settled.set()
