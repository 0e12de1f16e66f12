"""One stream of a client: reads a bounded number of requests, and sends results as they become ready."""

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
        issue: issues certificates for requests.
        caller: the client.
        client: the identity that it is logged by.
        above: the intermediates and trust anchors, by the name of the CA.

    Attributes:
        failure: the error that the call must end with after `serve`; None for success.
    """

    def __init__(
        self,
        issue: Callable[[Sequence[IssuanceRequest], Caller], Awaitable[list[Outcome]]],
        caller: Caller,
        client: str,
        above: Mapping[str, IssuerChain],
    ) -> None:
        self._issue = issue
        self._caller = caller
        self._client = client
        self._above = above
        self._in_flight = 0  # requests that were read, and whose results the client has not read
        self._octets = 0  # of requests that were read and have no result
        self._moved = asyncio.Event()  # one of the two has decreased
        self._answers: deque[tuple[str, Outcome]] = deque()
        self._answered = asyncio.Event()
        self._ended = False  # there will be no more results
        self._tasks: set[asyncio.Task[None]] = set()
        self._active_at = time.monotonic()  # when the client last sent a request or read a result
        self._reader: asyncio.Task[None] | None = None
        self._is_reading = True
        self._idle_timer: asyncio.TimerHandle | None = None
        self.failure: OtahsmError | None = None

    async def serve(self, messages: Requests) -> Responses:
        """Yield results until there are no more messages, or until the client is idle for too long."""
        self._reader = asyncio.create_task(self._read_all(messages))
        self._reader.add_done_callback(self._end_answers)  # however it ends, even before it starts
        # A timer, not a task: a client may open and cancel thousands of streams.
        self._check_idle()
        answered = issued = 0
        try:
            while answers := await self._ready_answers():
                response = issuance_pb2.IssueCertificatesResponse()
                for request_id, outcome in answers:
                    write_result(response.results.add(), request_id, outcome, self._above)
                    issued += isinstance(outcome, Issued)
                answered += len(answers)
                yield response
                # In flight until the client has read the result: a slow reader only slows itself.
                self._in_flight -= len(answers)
                self._active_at = time.monotonic()
                self._moved.set()
            if self.failure is None:
                await self._reader
        finally:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            for task in (self._reader, *self._tasks):
                task.cancel()
            _log.info("stream.ended", client=self._client, issued=issued, refused=answered - issued)

    def stop_reading(self, failure: OtahsmError) -> None:
        """Stop reading, answer what was read, and end the call with an error."""
        if self._is_reading and self.failure is None and self._reader is not None:
            self.failure = failure
            self._reader.cancel()

    async def _ready_answers(self) -> list[tuple[str, Outcome]]:
        """Wait for results; return those that are ready, or none at the end of the stream."""
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
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _end_answers(self, _: asyncio.Task[None]) -> None:
        self._ended = True
        self._answered.set()

    async def _read(self, messages: Requests) -> None:
        async for message in messages:
            count, octets = len(message.requests), message.ByteSize()
            if not 1 <= count <= limits.MAX_REQUESTS:
                raise RequestRefusedError(
                    "requests", f"a message must have 1 to {limits.MAX_REQUESTS} requests, not {count}"
                )
            self._active_at = time.monotonic()
            while not self._has_room(count, octets):
                self._moved.clear()
                await self._moved.wait()
            self._in_flight += count
            self._octets += octets
            requests = [request_of(request, self._caller) for request in message.requests]
            del message  # the requests have copies of its octets
            task = asyncio.create_task(self._answer(requests, octets))
            del requests
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _has_room(self, count: int, octets: int) -> bool:
        if self._in_flight + count > limits.MAX_IN_HAND:
            return False
        return not self._octets or self._octets + octets <= limits.MAX_IN_HAND_BYTES

    async def _answer(self, requests: Sequence[IssuanceRequest], octets: int) -> None:
        named = [request for request in requests if 1 <= len(request.request_id) <= limits.MAX_RETURNED_ID]
        for _ in range(len(requests) - len(named)):
            nameless = RequestRefusedError(
                "request_id", "a request in a stream needs a request id, of at most 128 characters"
            )
            self._answers.append(("", nameless))
        if named:
            outcomes = await self._issue(named, self._caller)
            request_ids = (request.request_id for request in named)
            self._answers.extend(zip(request_ids, outcomes, strict=True))
        self._octets -= octets
        self._moved.set()
        self._answered.set()

    def _check_idle(self) -> None:
        """Stop reading if the stream has been idle for `IDLE_STREAM_SECONDS`."""
        idle = 0.0 if self._in_flight else time.monotonic() - self._active_at
        if idle >= limits.IDLE_STREAM_SECONDS:
            self.stop_reading(TimeOverError(f"no request was sent for {limits.IDLE_STREAM_SECONDS:g} s"))
        else:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(limits.IDLE_STREAM_SECONDS - idle, self._check_idle)
