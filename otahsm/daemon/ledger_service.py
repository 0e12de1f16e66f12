"""The gRPC service for questions about the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from otahsm.authority import Caller, Entry, Issuance, Status
from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.daemon.wire.ledger import filter_of, text_of, time_of, write_counts, write_entry
from otahsm.daemon.wire.paging import page_start, page_token
from otahsm.errors import NotAllowedError, NotFoundError, RequestRefusedError
from otahsm.pki import SerialNumber
from otahsm.v1 import ledger_pb2 as pb
from otahsm.v1 import ledger_pb2_grpc

MAX_PAGE: Final = 1000
_PAGE: Final = 100


class LedgerService(ledger_pb2_grpc.LedgerServiceServicer):
    """`otahsm.v1.LedgerService`."""

    def __init__(self, issuance: Issuance) -> None:
        self._issuance = issuance
        self._queries = issuance.queries
        self._access = issuance.access

    async def GetCertificate(  # noqa: N802 - the name is the wire's
        self, request: pb.GetCertificateRequest, context: Context
    ) -> pb.GetCertificateResponse:
        """Return one certificate."""
        return await self._get(request, caller_of(context))

    async def ListCertificates(  # noqa: N802
        self, request: pb.ListCertificatesRequest, context: Context
    ) -> pb.ListCertificatesResponse:
        """Return a page of certificates."""
        return await self._list(request, caller_of(context))

    async def GetLedgerStats(  # noqa: N802
        self, request: pb.GetLedgerStatsRequest, context: Context
    ) -> pb.GetLedgerStatsResponse:
        """Return counts."""
        return await self._count(request)

    async def _get(self, request: pb.GetCertificateRequest, caller: Caller) -> pb.GetCertificateResponse:
        entry = await self._find(request, caller)
        response = pb.GetCertificateResponse()
        write_entry(response.certificate, entry)
        if entry.status in {Status.ISSUED, Status.SUPERSEDED, Status.REVOKED}:
            response.chain.extend(self._chain_of(response.certificate.certificate))
        return response

    def _chain_of(self, certificate: bytes) -> tuple[bytes, ...]:
        authority = self._issuance.authorities.of_certificate(certificate)
        return certificate, *authority.chain.intermediates

    async def _find(self, request: pb.GetCertificateRequest, caller: Caller) -> Entry:
        """Find an entry; to a caller that may not see it, there is none."""
        if request.WhichOneof("key") == "serial_number":
            if request.profile:
                raise RequestRefusedError("profile", "a profile goes with a device id")
            serial = SerialNumber.from_octets(request.serial_number)
            entry = await self._queries.by_serial(serial)
            name = f"serial number {serial.hex()}"
        elif device_id := text_of("device_id", request.device_id):
            profile = text_of("profile", request.profile) or self._issuance.default_profile
            entry = await self._queries.by_device(device_id, profile)
            name = f"device id {device_id[:128]!a} and profile {profile[:64]!a}"
        else:
            raise RequestRefusedError("key", "give either a serial number or a device id")
        if entry is None or not self._access.may_see(
            caller, entry.client, entry.client_certificate_sha256, datetime.now(UTC)
        ):
            raise NotFoundError(f"the ledger has no certificate with {name}")
        return entry

    async def _list(self, request: pb.ListCertificatesRequest, caller: Caller) -> pb.ListCertificatesResponse:
        wanted = filter_of(request)
        if not self._access.may_see(caller, wanted.client, b"", datetime.now(UTC)):
            if wanted.client:
                raise NotAllowedError(f"{caller.identity} may not see what others were issued")
            wanted = wanted._replace(client=caller.identity)
        after = page_start(wanted, request.page_token)
        if request.page_size < 0:
            raise RequestRefusedError("page_size", "a page has no negative size")
        full = request.view == pb.CERTIFICATE_VIEW_FULL
        if request.view not in pb.CertificateView.values():
            raise RequestRefusedError("view", f"there is no view {request.view}")
        size = min(request.page_size or _PAGE, MAX_PAGE)
        page = await self._queries.page(wanted, after, size=size, full=full)
        response = pb.ListCertificatesResponse()
        for entry in page.entries:
            write_entry(response.certificates.add(), entry)
        if page.next_after is not None:
            response.next_page_token = page_token(wanted, page.next_after)
        return response

    async def _count(self, request: pb.GetLedgerStatsRequest) -> pb.GetLedgerStatsResponse:
        response = pb.GetLedgerStatsResponse()
        write_counts(response, await self._queries.count(time_of(request)))
        return response
