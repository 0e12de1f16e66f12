"""The gRPC services. Thin: they read messages, hand orders to the cycle, and write results."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import Caller, EventName, Issuance, IssuanceRequest, Issued, Outcome
from otahsm.daemon.edge.boundary import internal_error
from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.daemon.stream import Responses, Stream
from otahsm.daemon.wire import IssuerChain, request_of, write_certificate
from otahsm.errors import (
    BatchClientError,
    NotAllowedError,
    NotFoundError,
    OtahsmError,
    QuotaError,
    ShuttingDownError,
)
from otahsm.pki import SubjectTemplate
from otahsm.v1 import (
    authority_pb2,
    authority_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    issuance_pb2,
    issuance_pb2_grpc,
)

_log = structlog.get_logger()


class IssuanceService(issuance_pb2_grpc.IssuanceServiceServicer):
    """`otahsm.v1.IssuanceService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._issuance = issuance
        self._above = IssuerChain.of(issuance.authorities)
        self._draining = False
        self._streams: set[Stream] = set()

    def drain(self) -> None:
        """Take nothing new; let every stream answer what it has read, and end it."""
        self._draining = True
        for stream in self._streams:
            stream.stop_reading(_draining())

    async def IssueCertificate(  # noqa: N802 - the name is the wire's
        self, request: issuance_pb2.IssueCertificateRequest, context: Context
    ) -> issuance_pb2.IssueCertificateResponse:
        """Issue one certificate."""
        caller = caller_of(context)
        if self._draining:
            raise _draining()
        (outcome,) = await self.answer([request_of(request.request, caller)], caller)
        if not isinstance(outcome, Issued):
            raise outcome
        response = issuance_pb2.IssueCertificateResponse(request_id=outcome.request_id)
        write_certificate(response.certificate, outcome, self._above)
        return response

    async def IssueCertificates(  # noqa: N802
        self,
        request_iterator: AsyncIterator[issuance_pb2.IssueCertificatesRequest],
        context: Context,
    ) -> Responses:
        """Issue certificates for as long as the client sends requests."""
        stream = Stream(self.answer, caller_of(context), self._above)
        self._streams.add(stream)
        try:
            if self._draining:
                raise _draining()
            async for response in stream.serve(request_iterator):
                yield response
        finally:
            self._streams.discard(stream)
        if stream.failure is not None:
            raise stream.failure

    async def answer(self, orders: Sequence[IssuanceRequest], caller: Caller) -> list[Outcome]:
        """Have a message's orders issued; log what was refused, one line a message."""
        try:
            outcomes = await self._issuance.submit(orders)
        except Exception:  # noqa: BLE001 - the edge of the process: a fault of ours must not reach the client raw
            _log.exception("issuance.fault", client=caller.identity, requests=len(orders))
            fault: Outcome = internal_error()
            outcomes = [fault] * len(orders)
        refusals = [outcome for outcome in outcomes if isinstance(outcome, OtahsmError)]
        for refusal in refusals:
            if isinstance(refusal, NotAllowedError | QuotaError | BatchClientError):
                about = {"reason": refusal.reason}
                self._issuance.audit.count(
                    EventName.REQUEST_DENIED, caller.identity, about, message=refusal.message
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


def _draining() -> ShuttingDownError:
    return ShuttingDownError("the daemon is shutting down")


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
            raise NotFoundError(f"there is no CA {request.name[:64]!a}")
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
        return authority_pb2.ListProfilesResponse(
            profiles=[
                authority_pb2.Profile(
                    name=name,
                    is_default=name == self._issuance.default_profile,
                    validity=Duration(seconds=profile.validity // timedelta(seconds=1)),
                    device_id_pattern=profile.device_id.pattern,
                    key_types=sorted(profile.key_types),
                    subject=map(str, profile.subject),
                    attributes=sorted(SubjectTemplate(profile.subject).names),
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
        serial = await self._issuance.reset(request.device_id, request.profile)
        self._issuance.audit.note(
            EventName.DEVICE_RESET,
            caller.identity,
            {"device": request.device_id, "superseded": serial.hex()},
        )
        return device_pb2.ResetDeviceResponse(serial_number=serial.octets)
