"""One `issue` call: a stream, and another if it breaks, until every request has its result.

Between its source and its result a request is in one of three states:

    source --> WAITING ------> IN FLIGHT ------> result
                  ^             |      |
                  |             v      |
                  |         POSTPONED  |
                  |             |      |
                  +-------------+------+   the stream ended or broke

WAITING: to be sent. IN FLIGHT: sent on the open stream, without a result yet. POSTPONED: failed temporarily,
or a duplicate is in flight; it is sent on the next stream. Only `_Backlog` changes states. Requests that are
not in it are still in the source, or have their result.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Final

import grpc

from otahsm.client.backoff import Backoff
from otahsm.client.checking import CertificateChecker
from otahsm.client.chunks import chunks_of
from otahsm.client.replicas import Replicas
from otahsm.client.rpc_errors import Ending
from otahsm.client.values import CertificateRequest, Refusal, Result
from otahsm.errors import CertificateRejectedError, Code, DaemonUnavailableError, OtahsmError
from otahsm.errors.status import from_status
from otahsm.pki.csr import derive_request_id
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

_CHUNK: Final = 64  # requests a message
_WINDOW: Final = 16 * _CHUNK  # requests in flight

Requests = Iterable[CertificateRequest] | AsyncIterable[CertificateRequest]
_Stream = grpc.aio.StreamStreamCall[
    issuance_pb2.IssueCertificatesRequest, issuance_pb2.IssueCertificatesResponse
]


class _Backlog:
    """The requests that were taken from the source and have no result, by state.

    Attributes:
        in_flight: by request id.
        postponed: in order of their failures.
    """

    def __init__(self) -> None:
        self._waiting: deque[CertificateRequest] = deque()
        self.in_flight: dict[str, CertificateRequest] = {}
        self.postponed: list[CertificateRequest] = []

    @property
    def has_waiting(self) -> bool:
        """Whether there are requests to send."""
        return bool(self._waiting)

    def next_waiting(self) -> list[CertificateRequest]:
        """Take the requests for the next message."""
        return [self._waiting.popleft() for _ in range(min(_CHUNK, len(self._waiting)))]

    def wait(self, requests: Iterable[CertificateRequest]) -> None:
        """Put back requests that were taken, but not sent."""
        self._waiting.extend(requests)

    def send(self, request_id: str, request: CertificateRequest) -> bool:
        """Mark a request as in flight; if a duplicate is, postpone it and return False."""
        if request_id in self.in_flight:
            self.postponed.append(request)
            return False
        self.in_flight[request_id] = request
        return True

    def answered(self, request_id: str) -> CertificateRequest | None:
        """Remove and return the request with an id; None if there is none."""
        return self.in_flight.pop(request_id, None)

    def postpone(self, request: CertificateRequest) -> None:
        """Keep a request that failed temporarily for the next stream."""
        self.postponed.append(request)

    def stream_ended(self) -> None:
        """Mark all requests without a result as waiting."""
        self.wait((*self.in_flight.values(), *self.postponed))
        self.in_flight.clear()
        self.postponed.clear()

    def give_up(self) -> list[CertificateRequest]:
        """Remove and return the waiting requests."""
        requests = list(self._waiting)
        self._waiting.clear()
        return requests


class ResumableStream:
    """Opens streams until every request of a source has its result.

    Args:
        replicas: the daemons.
        requests: the source of requests.
        profile: the profile.
        patience: seconds without any progress before temporary failures become results.
        checker: returns what checks certificates.
    """

    def __init__(
        self,
        replicas: Replicas,
        requests: Requests,
        profile: str,
        patience: float,
        checker: Callable[[], Awaitable[CertificateChecker]],
    ) -> None:
        self._replicas = replicas
        self._source = chunks_of(requests, _CHUNK)
        self._profile = profile
        self._patience = patience
        self._checker = checker
        self._waiting_since = time.monotonic()
        self._backoff = Backoff()
        # A pull survives the stream that it was made for, so that nothing taken from the source is lost.
        self._pull: asyncio.Future[list[CertificateRequest]] | None = None
        self._exhausted = False
        self._backlog = _Backlog()
        self._room = asyncio.Condition()
        self._pause = 0.0  # seconds until a quota has room again

    async def results(self) -> AsyncGenerator[Result, None]:
        """Yield one result for each request; raises as `IssuanceClient.issue`."""
        try:
            async with contextlib.aclosing(self._streams()) as results:
                async for result in results:
                    yield result
        finally:  # also if the caller stops early: close the source
            if self._pull is not None:
                self._pull.cancel()
                await asyncio.wait({self._pull})
            await self._source.aclose()

    async def _streams(self) -> AsyncGenerator[Result, None]:
        """Open streams, one after another, until all requests have a result, or the patience is over.

        With several daemons, each stream goes to the next one.
        """
        while not self._is_done:
            failure: OtahsmError | None = None
            target, channel = await self._replicas.choose()
            stub: issuance_pb2_grpc.IssuanceServiceAsyncStub = issuance_pb2_grpc.IssuanceServiceStub(channel)
            stream = stub.IssueCertificates()
            ending = Ending(stream)
            sender = asyncio.create_task(self._send(stream))
            try:
                async for response in stream:
                    for result in await self._take(response):
                        yield result
                self._verify_answered(target)
            except (grpc.aio.AioRpcError, OtahsmError) as error:  # or of the checker: then nothing was taken
                failure = error if isinstance(error, OtahsmError) else await ending.of(error, target)
            finally:
                sender.cancel()
                await asyncio.wait({sender})
                stream.cancel()
            if not sender.cancelled():
                sender.result()  # raises what the source of requests raised
            self._backlog.stream_ended()
            unanswered = self._backlog.has_waiting
            if failure and (
                failure.code is not Code.UNAVAILABLE or (unanswered and self._patience_is_over())
            ):
                for request in self._backlog.give_up():
                    yield Refusal(request, failure)
                if not self._exhausted:
                    raise failure
            if (self._backlog.has_waiting or failure) and not self._is_done:
                await (asyncio.sleep(self._pause) if self._pause else self._backoff.pause())
                self._pause = 0.0

    async def _send(self, stream: _Stream) -> None:
        """Write requests until the source ends, or until too many are postponed."""
        try:
            while chunk := await self._next_chunk():
                if message := await self._enter(chunk):
                    await stream.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream broke; its reader gets the error
        finally:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await stream.done_writing()

    async def _next_chunk(self) -> list[CertificateRequest]:
        if self._backlog.has_waiting:
            return self._backlog.next_waiting()
        if self._exhausted or len(self._backlog.postponed) >= _WINDOW:
            return []
        if self._pull is None:
            self._pull = asyncio.ensure_future(anext(self._source, []))
        await asyncio.wait({self._pull})
        pulled, self._pull = self._pull, None
        chunk = pulled.result()
        self._exhausted = not chunk
        if not (self._backlog.in_flight or self._backlog.postponed):
            self._waiting_since = time.monotonic()
        return chunk

    async def _enter(self, chunk: list[CertificateRequest]) -> issuance_pb2.IssueCertificatesRequest | None:
        """Wait for room, mark a chunk as in flight, and return its message."""
        try:
            async with self._room:
                await self._room.wait_for(lambda: len(self._backlog.in_flight) + len(chunk) <= _WINDOW)
        except asyncio.CancelledError:
            self._backlog.wait(chunk)
            raise
        messages = []
        for request in chunk:
            request_id = request.request_id or derive_request_id(self._profile, request.csr)
            if self._backlog.send(request_id, request):
                messages.append(request.message(request_id, self._profile))
        return issuance_pb2.IssueCertificatesRequest(requests=messages) if messages else None

    async def _take(self, response: issuance_pb2.IssueCertificatesResponse) -> list[Result]:
        """Match results to requests; postpone those to retry."""
        results: list[Result] = []
        checker = await self._checker()
        for message in response.results:
            request = self._backlog.answered(message.request_id)
            if request is None:
                continue
            if message.HasField("certificate"):
                try:
                    result: Result = checker.read(request, message.certificate)
                except CertificateRejectedError as error:
                    result = Refusal(request, error)
            else:
                result = Refusal(request, from_status(message.error))
            if isinstance(result, Refusal) and result.passes_within(self._patience):
                if not self._patience_is_over():
                    self._backlog.postpone(request)
                    self._pause = max(self._pause, result.retry_after or 0.0)
                    continue
            else:
                self._backoff.reset()
                self._waiting_since = time.monotonic()
            results.append(result)
        async with self._room:
            self._room.notify()
        return results

    def _verify_answered(self, target: str) -> None:
        """Check that a stream which has ended without an error has given every result."""
        if self._backlog.in_flight:
            raise DaemonUnavailableError(f"the daemon at {target} ended a stream without its results")

    @property
    def _is_done(self) -> bool:
        return self._exhausted and not self._backlog.has_waiting

    def _patience_is_over(self) -> bool:
        return time.monotonic() - self._waiting_since > self._patience
