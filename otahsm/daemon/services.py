"""The gRPC services. Thin: they read messages, hand orders to the cycle, and write results."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.daemon.answering import answered, unforeseen
from otahsm.daemon.tls import Context, caller_of
from otahsm.daemon.wire import Above, abort, order_of, write_certificate, write_result
from otahsm.errors import (
    BatchClientError,
    NotAllowedError,
    NotFoundError,
    OtahsmError,
    QuotaError,
    RequestRefusedError,
    ShuttingDownError,
)
from otahsm.issuance import Caller, Happening, Issuance, Issued, Order, Outcome
from otahsm.pki import serial_octets
from otahsm.v1 import (
    authority_pb2,
    authority_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    issuance_pb2,
    issuance_pb2_grpc,
)

MAX_REQUESTS: Final = 256  # in one message
_IN_HAND: Final = 1024  # requests of one stream
_SECONDS_A_DAY: Final = 86_400

_log = structlog.get_logger()
_Responses = AsyncIterator[issuance_pb2.IssueCertificatesResponse]


class IssuanceService(issuance_pb2_grpc.IssuanceServiceServicer):
    """`otahsm.v1.IssuanceService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._issuance = issuance
        self._above = Above.of(issuance.authorities)
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Take nothing new; let every stream answer what it has read, and end it."""
        self._draining.set()

    async def IssueCertificate(  # noqa: N802 - the name is the wire's
        self, request: issuance_pb2.IssueCertificateRequest, context: Context
    ) -> issuance_pb2.IssueCertificateResponse:
        """Issue one certificate."""
        caller = caller_of(context)
        if self._draining.is_set():
            await abort(context, ShuttingDownError("the daemon is shutting down"))
        (outcome,) = await self.answer([order_of(request.request, caller)], caller)
        if not isinstance(outcome, Issued):
            await abort(context, outcome)
        response = issuance_pb2.IssueCertificateResponse(request_id=outcome.request_id)
        write_certificate(response.certificate, outcome, self._above)
        return response

    async def IssueCertificates(  # noqa: N802
        self,
        request_iterator: AsyncIterator[issuance_pb2.IssueCertificatesRequest],
        context: Context,
    ) -> _Responses:
        """Issue certificates for as long as the client sends requests."""
        stream = _Stream(self, caller_of(context), self._above)
        async for response in stream.serve(request_iterator, self._draining):
            yield response
        if stream.failure is not None:
            await abort(context, stream.failure)

    async def answer(self, orders: Sequence[Order], caller: Caller) -> list[Outcome]:
        """Have a message's orders issued; log what was refused, one line a message."""
        try:
            outcomes = await self._issuance.submit(orders)
        except Exception:  # noqa: BLE001 - the edge of the process: a fault of ours must not reach the client raw
            _log.exception("issuance.fault", client=caller.identity, requests=len(orders))
            fault: Outcome = unforeseen()
            outcomes = [fault] * len(orders)
        refusals = [outcome for outcome in outcomes if isinstance(outcome, OtahsmError)]
        for refusal in refusals:
            if isinstance(refusal, NotAllowedError | QuotaError | BatchClientError):
                about = {"reason": refusal.reason}
                self._issuance.audit.count(
                    Happening.REQUEST_DENIED, caller.identity, about, message=refusal.message
                )
        if refusals:
            reasons = dict(Counter(refusal.reason for refusal in refusals))
            first = refusals[0]
            _log.warning(
                "requests.refused",
                client=caller.identity,
                reasons=reasons,
                first=first.message,
                hint=first.hint,
            )
        return outcomes


class _Stream:
    """One stream of a client's: reads ahead so many requests, answers each when it is done."""

    def __init__(self, service: IssuanceService, caller: Caller, above: Mapping[str, Above]) -> None:
        self._service = service
        self._caller = caller
        self._above = above
        self._in_hand = 0  # requests that were read and whose results the client has not taken
        self._taken = asyncio.Event()
        self._answers: deque[tuple[str, Outcome]] = deque()
        self._answered = asyncio.Event()
        self._ended = False  # there will be no more answers
        self._in_work: set[asyncio.Task[None]] = set()
        self.failure: OtahsmError | None = None

    async def serve(
        self, messages: AsyncIterator[issuance_pb2.IssueCertificatesRequest], draining: asyncio.Event
    ) -> _Responses:
        reader = asyncio.create_task(self._read_all(messages, draining))
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
                self._taken.set()
            await reader
        finally:
            for task in (reader, *self._in_work):
                task.cancel()
            _log.info("stream.ended", client=self._caller.identity, issued=issued, refused=answered - issued)

    async def _ready_answers(self) -> list[tuple[str, Outcome]]:
        """Wait for an answer, and take along what others there are; none when the stream is at its end."""
        while not self._answers and not self._ended:
            self._answered.clear()
            await self._answered.wait()
        return [self._answers.popleft() for _ in range(min(len(self._answers), MAX_REQUESTS))]

    async def _read_all(
        self, messages: AsyncIterator[issuance_pb2.IssueCertificatesRequest], draining: asyncio.Event
    ) -> None:
        reading = asyncio.create_task(self._read(messages))
        stopping = asyncio.create_task(draining.wait())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                self.failure = ShuttingDownError("the daemon is shutting down")
            elif not reading.cancelled() and (error := reading.exception()):
                if not isinstance(error, OtahsmError):
                    raise error
                self.failure = error
            while self._in_work:
                await asyncio.wait(self._in_work)
        finally:
            stopping.cancel()
            reading.cancel()
            self._ended = True
            self._answered.set()

    async def _read(self, messages: AsyncIterator[issuance_pb2.IssueCertificatesRequest]) -> None:
        async for message in messages:
            count = len(message.requests)
            if not 1 <= count <= MAX_REQUESTS:
                raise RequestRefusedError(
                    "requests", f"a message carries 1 to {MAX_REQUESTS} requests, not {count}"
                )
            while self._in_hand + count > _IN_HAND:
                self._taken.clear()
                await self._taken.wait()
            self._in_hand += count
            task = asyncio.create_task(self._answer(message.requests))
            self._in_work.add(task)
            task.add_done_callback(self._in_work.discard)

    async def _answer(self, requests: Sequence[issuance_pb2.CertificateRequest]) -> None:
        named = [order_of(request, self._caller) for request in requests if request.request_id]
        for _ in range(len(requests) - len(named)):
            nameless = RequestRefusedError("request_id", "a request in a stream needs a request id")
            self._answers.append(("", nameless))
        if named:
            outcomes = await self._service.answer(named, self._caller)
            request_ids = (order.request_id for order in named)
            self._answers.extend(zip(request_ids, outcomes, strict=True))
        self._answered.set()


class AuthorityService(authority_pb2_grpc.AuthorityServiceServicer):
    """`otahsm.v1.AuthorityService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._issuance = issuance

    async def GetAuthority(  # noqa: N802
        self, request: authority_pb2.GetAuthorityRequest, context: Context
    ) -> authority_pb2.GetAuthorityResponse:
        """Tell which CA signs."""
        authority = self._issuance.authorities.by_name.get(request.name)
        if authority is None:
            await abort(context, NotFoundError(f"there is no CA {request.name[:64]!a}"))
        chain = authority.chain
        return authority_pb2.GetAuthorityResponse(
            authority=authority_pb2.Authority(
                subject=chain.issuer.subject_text,
                chain=chain.intermediates,
                trust_anchor=chain.trust_anchor,
                key_type=chain.issuer.key_type,
                not_after_time=Timestamp(seconds=int(chain.issuer.not_after.timestamp())),
                ready_signers=self._issuance.ready_signers,
                not_serving_reason=self._issuance.trouble,
            )
        )

    async def ListProfiles(  # noqa: N802
        self, request: authority_pb2.ListProfilesRequest, context: Context
    ) -> authority_pb2.ListProfilesResponse:
        """Tell what may be issued."""
        del request, context
        return authority_pb2.ListProfilesResponse(
            profiles=[
                authority_pb2.Profile(
                    name=name,
                    is_default=name == self._issuance.default_profile,
                    validity=Duration(seconds=profile.validity_days * _SECONDS_A_DAY),
                    device_id_pattern=profile.device_id,
                    key_types=sorted(profile.key_types),
                    subject=profile.subject,
                    attributes=sorted({name for part in profile.subject_parts for name in part.value.names}),
                )
                for name, profile in sorted(self._issuance.profiles.items())
            ]
        )


class DeviceService(device_pb2_grpc.DeviceServiceServicer):
    """`otahsm.v1.DeviceService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._issuance = issuance

    async def ResetDevice(  # noqa: N802
        self, request: device_pb2.ResetDeviceRequest, context: Context
    ) -> device_pb2.ResetDeviceResponse:
        """Let a device have a new certificate."""
        caller = caller_of(context)
        work = self._issuance.reset(request.device_id, request.profile)
        serial = await answered(work, context, "device.fault")
        octets = serial_octets(serial)
        self._issuance.audit.note(
            Happening.DEVICE_RESET,
            caller.identity,
            {"device": request.device_id, "superseded": octets.hex()},
        )
        return device_pb2.ResetDeviceResponse(serial_number=octets)
