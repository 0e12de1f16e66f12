"""The queue in front of the cycle: it groups the requests of many clients, fairly.

A group is whatever waits when a slot in the cycle becomes free, up to a limit. A lone request is never
delayed, and groups grow under load. Clients take turns: each waiting client gets an equal share of a group,
and unused shares go to the others. A client with a million requests delays a single request of another by no
more than what is already in the cycle.

Each client's line and the slots are bounded (I6). When a client's line is full, `submit` waits, and with it
that client's streams, but no other's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from otahsm.access import Caller
from otahsm.issuance.values import IssuanceRequest, Outcome

_LINE: Final = 1024  # requests of one client that may wait before `submit` blocks


class _Submission:
    """One message of a client; its requests may go through the cycle in several groups."""

    def __init__(self, requests: Sequence[IssuanceRequest]) -> None:
        self.requests = requests
        self.taken = 0
        self.answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._outcomes: dict[int, Outcome] = {}

    def settle(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Store the outcomes of the requests from `first` on; complete the answer when all are there."""
        self._outcomes.update(enumerate(outcomes, first))
        if len(self._outcomes) == len(self.requests) and not self.answer.done():
            self.answer.set_result([self._outcomes[position] for position in range(len(self.requests))])

    def fail(self, error: BaseException) -> None:
        """Fail the whole submission with an error that is not an outcome."""
        if not self.answer.done():
            self.answer.set_exception(error)


class _Part:
    """The requests of a submission that are in one group."""

    def __init__(self, submission: _Submission, at_most: int) -> None:
        self.submission = submission
        self.first = submission.taken
        self.requests = submission.requests[self.first : self.first + at_most]
        submission.taken += len(self.requests)


class _Line:
    """The waiting submissions of one client."""

    def __init__(self) -> None:
        self.submissions: deque[_Submission] = deque()
        self.waiting = 0
        self._outside: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        return self.waiting >= _LINE

    async def room(self) -> None:
        """Wait until requests were taken. Another caller may use up the room first."""
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
        # Wake one for each request that was taken, not all: there may be thousands, and little room.
        come_in = min(len(part.requests), len(self._outside)) if self.waiting else len(self._outside)
        for turn in [self._outside.popleft() for _ in range(come_in)]:
            if not turn.done():
                turn.set_result(None)
        return part


class IssuanceQueue:
    """Feeds groups of requests to `issue`.

    Args:
        issue: takes a group through the cycle.
        group_size: the most requests in a group.
        slots: the most groups in the cycle at once.
        client_of: returns what tells a caller from other clients.
    """

    def __init__(
        self,
        issue: Callable[[Sequence[IssuanceRequest]], Awaitable[list[Outcome]]],
        *,
        group_size: int,
        slots: int,
        client_of: Callable[[Caller], str],
    ) -> None:
        self._issue = issue
        self._group_size = group_size
        self._client_of = client_of
        self._slots = asyncio.Semaphore(slots)
        self._lines: dict[str, _Line] = {}  # of the waiting clients, in order of their turns
        self._arrived = asyncio.Event()
        self._unsettled = 0  # requests, in lines and in the cycle
        self._settled = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Start to take groups; return the task that does so until `close`."""
        self._feeder = asyncio.create_task(self._feed())
        return self._feeder

    async def submit(self, requests: Sequence[IssuanceRequest]) -> list[Outcome]:
        """Return the outcomes of requests, one for each, in order.

        Cancelling this does not cancel the requests.

        Args:
            requests: at least one, all from one client.
        """
        client = self._client_of(requests[0].caller)
        while (line := self._lines.get(client)) and line.full:
            await line.room()
        line = self._lines.setdefault(client, line or _Line())
        submission = _Submission(requests)
        line.add(submission)
        self._count(len(requests))
        self._arrived.set()
        return await submission.answer

    async def close(self, within: float) -> None:
        """Wait until all submitted requests have their outcomes; nothing may be submitted afterwards.

        After `within` seconds, the rest is cancelled: its intents are voided, its callers get no outcome.
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
            await self._slots.acquire()
            while not self._lines:
                self._arrived.clear()
                await self._arrived.wait()
            task = asyncio.create_task(self._run(self._next_group()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next_group(self) -> list[_Part]:
        """Take an equal share from each line in turn, until the group is full or the lines are empty."""
        room = self._group_size
        share = max(1, room // len(self._lines))
        group: list[_Part] = []
        while room and self._lines:
            client, line = next(iter(self._lines.items()))
            del self._lines[client]  # its next turn comes last
            left = min(share, room)
            while left and line.submissions:
                group.append(line.take(left))
                left -= len(group[-1].requests)
                room -= len(group[-1].requests)
            if line.submissions:
                self._lines[client] = line
        return group

    async def _run(self, group: list[_Part]) -> None:
        requests = [request for part in group for request in part.requests]
        try:
            outcomes = await self._issue(requests)
            at = 0
            for part in group:
                part.submission.settle(part.first, outcomes[at : at + len(part.requests)])
                at += len(part.requests)
        except BaseException as error:
            for part in group:
                part.submission.fail(error)
            raise
        finally:
            self._slots.release()
            self._count(-len(requests))

    def _count(self, change: int) -> None:
        self._unsettled += change
        if self._unsettled:
            self._settled.clear()
        else:
            self._settled.set()
