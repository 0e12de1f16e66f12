"""The gRPC service for revocation. Thin, as `otahsm.daemon.services`."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Final

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import (
    AUTHORITIES,
    COMPLETE,
    Issuance,
    RevocationOutcome,
    RevocationRequest,
    RevokedDevice,
    StoredCrl,
)
from otahsm.config import CrlConfig
from otahsm.daemon.edge.limits import MAX_REQUESTS
from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.errors import NotFoundError, OtahsmError, RequestRefusedError
from otahsm.errors.status import to_status
from otahsm.pki import Reason, SerialNumber
from otahsm.v1 import revocation_pb2 as pb
from otahsm.v1 import revocation_pb2_grpc

_REASONS: Final = {reason.code: reason for reason in Reason}

_log = structlog.get_logger()


class RevocationService(revocation_pb2_grpc.RevocationServiceServicer):
    """`otahsm.v1.RevocationService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._revocations = issuance.revocations
        self._authorities = issuance.authorities
        self._crls = issuance.crls

    async def RevokeCertificates(  # noqa: N802 - the name is the wire's
        self, request: pb.RevokeCertificatesRequest, context: Context
    ) -> pb.RevokeCertificatesResponse:
        """Revoke certificates."""
        caller = caller_of(context)
        outcomes = await self._revoke(request, caller.identity)
        _log_revoked(outcomes, caller.identity)
        response = pb.RevokeCertificatesResponse()
        for outcome in outcomes:
            result = response.results.add()
            if isinstance(outcome, OtahsmError):
                result.error.CopyFrom(to_status(outcome))
            else:
                result.certificates.extend(map(_revoked_certificate, outcome))
        return response

    async def GetCrl(  # noqa: N802
        self, request: pb.GetCrlRequest, context: Context
    ) -> pb.GetCrlResponse:
        """Return a CRL."""
        crl = await self._crl(request)
        return pb.GetCrlResponse(
            crl=crl.der,
            number=crl.row.number,
            this_update_time=Timestamp(seconds=crl.row.this_update),
            next_update_time=Timestamp(seconds=crl.row.next_update),
            revoked_count=crl.row.revoked,
        )

    async def _revoke(self, request: pb.RevokeCertificatesRequest, client: str) -> list[RevocationOutcome]:
        """Revoke the targets that can be read; a malformed one costs its own result."""
        count = len(request.targets)
        if not 1 <= count <= MAX_REQUESTS:
            raise RequestRefusedError("targets", f"a call carries 1 to {MAX_REQUESTS} targets, not {count}")
        outcomes: list[RevocationOutcome] = []
        orders: list[RevocationRequest] = []
        places: list[int] = []
        for place, target in enumerate(request.targets):
            outcomes.append([])
            try:
                orders.append(_order_of(target))
                places.append(place)
            except RequestRefusedError as error:
                outcomes[place] = error
        for place, outcome in zip(places, await self._revocations.revoke(orders, client), strict=True):
            outcomes[place] = outcome
        return outcomes

    async def _crl(self, request: pb.GetCrlRequest) -> StoredCrl:
        if request.WhichOneof("scope") == "url" and request.url:
            return await self._crl_at(request.url)
        authority = self._authorities.by_name.get(request.ca)
        if authority is None:
            raise NotFoundError(f"there is no CA {request.ca[:64]!a}")
        if authority.key is None:
            raise NotFoundError(f"the CA {request.ca[:64]!a} is retired, and signs no CRL any more")
        return await self._crls[request.ca].crl(_scope_of(request, authority.config.crl))

    async def _crl_at(self, url: str) -> StoredCrl:
        """Find the CRL of a URL, whichever CA's it is."""
        (*others, last) = self._crls.values()
        for keeper in others:
            with contextlib.suppress(NotFoundError):
                return await keeper.crl(url)
        return await last.crl(url)


def _scope_of(request: pb.GetCrlRequest, config: CrlConfig | None) -> str:
    match request.WhichOneof("scope"):
        case "shard":
            if config is None or request.shard >= config.shards:
                raise NotFoundError(f"there is no shard {request.shard}")
            return config.location.url(request.shard)
        case "authorities" if request.authorities:
            return AUTHORITIES
    return COMPLETE


def _order_of(target: pb.RevocationTarget) -> RevocationRequest:
    if target.reason not in _REASONS:
        raise RequestRefusedError("reason", f"there is no reason {target.reason}")
    by_serial = target.WhichOneof("target") == "serial_number"
    return RevocationRequest(
        SerialNumber.from_octets(target.serial_number) if by_serial else None,
        target.device_id,
        target.profile,
        _REASONS[target.reason],
    )


def _revoked_certificate(item: RevokedDevice) -> pb.RevokedCertificate:
    return pb.RevokedCertificate(
        serial_number=item.serial.octets,
        device_id=item.device_id,
        profile=item.profile,
        revoke_time=Timestamp(seconds=int(item.revoked_at.timestamp())),
        reason=pb.RevocationReason.ValueType(item.reason.code),
        already_revoked=item.before,
    )


def _log_revoked(outcomes: list[RevocationOutcome], client: str) -> None:
    refusals = [outcome for outcome in outcomes if isinstance(outcome, OtahsmError)]
    certificates = [item for outcome in outcomes if not isinstance(outcome, OtahsmError) for item in outcome]
    new = [item for item in certificates if not item.before]
    if new:
        _log.info(
            "certificates.revoked",
            client=client,
            revoked=len(new),
            reasons=dict(Counter(item.reason.value for item in new)),
            first=new[0].serial.hex(),
        )
    if refusals:
        _log.warning(
            "revocations.refused",
            client=client,
            reasons=dict(Counter(refusal.reason for refusal in refusals)),
            first=refusals[0].message,
            hint=refusals[0].hint,
        )
