"""One stream of a client's: it reads ahead so many requests, and answers each when it is done."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import structlog

from otahsm.authority import Caller, IssuanceRequest, Issued, Outcome
from otahsm.daemon.edge import limits
from otahsm.daemon.wire import IssuerChain, request_of, write_result
from otahsm.errors import OtahsmError, RequestRefusedError, TimeOverError
from otahsm.v1 import issuance_pb2

Requests = AsyncIterator[issuance_pb2.IssueCertificatesRequest]
Responses = AsyncIterator[issuance_pb2.IssueCertificatesResponse]

_log = structlog.get_logger()


class Stream:
    """One `IssueCertificates` call.

    Args:
        issue: has orders issued.
        caller: whose stream it is.
        above: the CAs above the devices' certificates.

    Attributes:
        failure: what the call must end with, when `serve` has ended; None if all is well.
    """

    def __init__(
        self,
        issue: Callable[[Sequence[IssuanceRequest], Caller], Awaitable[list[Outcome]]],
        caller: Caller,
        above: Mapping[str, IssuerChain],
    ) -> None:
        self._issue = issue
        self._caller = caller
        self._above = above
        self._in_hand = 0  # requests that were read and whose results the client has not taken
        self._octets = 0  # of requests that were read and not answered
        self._moved = asyncio.Event()  # one of the two has sunk
        self._answers: deque[tuple[str, Outcome]] = deque()
        self._answered = asyncio.Event()
        self._ended = False  # there will be no more answers
        self._in_work: set[asyncio.Task[None]] = set()
        self._stirred = time.monotonic()  # when something was asked or taken
        self._reader: asyncio.Task[None] | None = None
        self._is_reading = True
        self._silence: asyncio.TimerHandle | None = None
        self.failure: OtahsmError | None = None

    async def serve(self, messages: Requests) -> Responses:
        """Answer messages until there are no more, or until the client is silent for too long."""
        self._reader = asyncio.create_task(self._read_all(messages))
        self._reader.add_done_callback(self._end_answers)  # however it ends, and if it never began
        # A timer and not a task: a client may open and cancel thousands of streams.
        self._look_for_silence()
        answered = issued = 0
        try:
            while answers := await self._ready_answers():
                response = issuance_pb2.IssueCertificatesResponse()
                for request_id, outcome in answers:
                    write_result(response.results.add(), request_id, outcome, self._above)
                    issued += isinstance(outcome, Issued)
                answered += len(answers)
                yield response
                # A result counts as in hand until the client has taken it: a slow reader slows only itself.
                self._in_hand -= len(answers)
                self._stirred = time.monotonic()
                self._moved.set()
            if self.failure is None:
                await self._reader
        finally:
            if self._silence is not None:
                self._silence.cancel()
            for task in (self._reader, *self._in_work):
                task.cancel()
            _log.info("stream.ended", client=self._caller.identity, issued=issued, refused=answered - issued)

    def stop_reading(self, failure: OtahsmError) -> None:
        """Take nothing new, answer what was read, and end the call with an error."""
        if self._is_reading and self.failure is None and self._reader is not None:
            self.failure = failure
            self._reader.cancel()

    async def _ready_answers(self) -> list[tuple[str, Outcome]]:
        """Wait for an answer, and take along what others there are; none when the stream is at its end."""
        while not self._answers and not self._ended:
            self._answered.clear()
            await self._answered.wait()
        return [self._answers.popleft() for _ in range(min(len(self._answers), limits.MAX_REQUESTS))]

    async def _read_all(self, messages: Requests) -> None:
        try:
            await self._read(messages)
        except OtahsmError as error:
            self.failure = error
        except asyncio.CancelledError:
            if self.failure is None:
                raise  # not by `stop_reading`
        self._is_reading = False
        while self._in_work:
            await asyncio.wait(self._in_work)

    def _end_answers(self, _: asyncio.Task[None]) -> None:
        self._ended = True
        self._answered.set()

    async def _read(self, messages: Requests) -> None:
        async for message in messages:
            count, octets = len(message.requests), message.ByteSize()
            if not 1 <= count <= limits.MAX_REQUESTS:
                raise RequestRefusedError(
                    "requests", f"a message carries 1 to {limits.MAX_REQUESTS} requests, not {count}"
                )
            self._stirred = time.monotonic()
            while not self._has_room(count, octets):
                self._moved.clear()
                await self._moved.wait()
            self._in_hand += count
            self._octets += octets
            task = asyncio.create_task(self._answer(message.requests, octets))
            self._in_work.add(task)
            task.add_done_callback(self._in_work.discard)

    def _has_room(self, count: int, octets: int) -> bool:
        if self._in_hand + count > limits.MAX_IN_HAND:
            return False
        return not self._octets or self._octets + octets <= limits.MAX_IN_HAND_BYTES

    async def _answer(self, requests: Sequence[issuance_pb2.CertificateRequest], octets: int) -> None:
        named = [request_of(request, self._caller) for request in requests if request.request_id]
        for _ in range(len(requests) - len(named)):
            nameless = RequestRefusedError("request_id", "a request in a stream needs a request id")
            self._answers.append(("", nameless))
        if named:
            outcomes = await self._issue(named, self._caller)
            request_ids = (order.request_id for order in named)
            self._answers.extend(zip(request_ids, outcomes, strict=True))
        self._octets -= octets
        self._moved.set()
        self._answered.set()

    def _look_for_silence(self) -> None:
        """Stop reading when nothing was asked, and nothing was owed, for so long."""
        quiet = 0.0 if self._in_hand else time.monotonic() - self._stirred
        if quiet >= limits.IDLE_STREAM_SECONDS:
            self.stop_reading(TimeOverError(f"nothing was asked for {limits.IDLE_STREAM_SECONDS:g} s"))
        else:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(limits.IDLE_STREAM_SECONDS - quiet, self._look_for_silence)
