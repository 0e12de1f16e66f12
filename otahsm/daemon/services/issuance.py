"""`otahsm.v1.IssuanceService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import structlog

from otahsm.authority import Caller, CertificateAuthority, IssuanceRequest, Outcome
from otahsm.daemon.edge import Context, caller_of, internal_error
from otahsm.daemon.services.stream import Responses, Stream
from otahsm.daemon.wire import IssuerChain, request_of, write_certificate
from otahsm.errors import OtahsmError, ShuttingDownError
from otahsm.v1 import issuance_pb2 as pb
from otahsm.v1 import issuance_pb2_grpc

_log = structlog.get_logger()


class IssuanceService(issuance_pb2_grpc.IssuanceServiceServicer):
    """`otahsm.v1.IssuanceService`."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self._authority = authority
        self._above = IssuerChain.of(authority.authorities)
        self._draining = False
        self._streams: set[Stream] = set()

    def drain(self) -> None:
        """Refuse new requests; end every stream after it has answered what it has read."""
        self._draining = True
        for stream in self._streams:
            stream.stop_reading(_draining())

    async def IssueCertificate(  # noqa: N802 - the name is the wire's
        self, request: pb.IssueCertificateRequest, context: Context
    ) -> pb.IssueCertificateResponse:
        """Issue one certificate."""
        if self._draining:
            raise _draining()
        caller = caller_of(context)
        (outcome,) = await self._authority.issue(caller, [request_of(request.request, caller)])
        if isinstance(outcome, OtahsmError):
            raise outcome
        response = pb.IssueCertificateResponse(request_id=outcome.request_id)
        write_certificate(response.certificate, outcome, self._above)
        return response

    async def IssueCertificates(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.IssueCertificatesRequest], context: Context
    ) -> Responses:
        """Issue certificates for as long as the client sends requests."""
        caller = caller_of(context)
        stream = Stream(self._issue_message, caller, self._authority.client_of(caller), self._above)
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

    async def _issue_message(self, requests: Sequence[IssuanceRequest], caller: Caller) -> list[Outcome]:
        """Issue for the requests of a message; an internal error fails this message, but not the stream."""
        try:
            return await self._authority.issue(caller, requests)
        except Exception:  # noqa: BLE001 - the edge of the process, as for a call
            _log.exception("issuance.fault", client=self._authority.client_of(caller), requests=len(requests))
            return [internal_error()] * len(requests)


def _draining() -> ShuttingDownError:
    return ShuttingDownError("the daemon is shutting down")
