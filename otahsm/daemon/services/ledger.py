"""`otahsm.v1.LedgerService`."""

from __future__ import annotations

from otahsm.daemon.edge import Context, caller_of
from otahsm.daemon.services.service import Service
from otahsm.daemon.wire.ledger import (
    certificate_message,
    filter_of,
    key_of,
    time_of,
    write_certificate,
    write_counts,
)
from otahsm.daemon.wire.paging import page_size, page_start, page_token
from otahsm.errors import RequestRefusedError
from otahsm.v1 import ledger_pb2 as pb
from otahsm.v1 import ledger_pb2_grpc


class LedgerService(Service, ledger_pb2_grpc.LedgerServiceServicer):
    """`otahsm.v1.LedgerService`."""

    async def GetCertificate(  # noqa: N802 - the name is the wire's
        self, request: pb.GetCertificateRequest, context: Context
    ) -> pb.GetCertificateResponse:
        """Return one certificate."""
        record, chain = await self._authority.get_certificate(caller_of(context), key_of(request))
        return pb.GetCertificateResponse(certificate=certificate_message(record), chain=chain)

    async def ListCertificates(  # noqa: N802
        self, request: pb.ListCertificatesRequest, context: Context
    ) -> pb.ListCertificatesResponse:
        """Return a page of certificates."""
        caller = caller_of(context)
        criteria = self._authority.visible(caller, filter_of(request))
        after = page_start(criteria, request.page_token)
        size = page_size(request.page_size)
        if request.view not in pb.CertificateView.values():
            raise RequestRefusedError("view", f"there is no view {request.view}")
        page = await self._authority.list_certificates(
            caller,
            criteria,
            after,
            size=size,
            full=request.view == pb.CERTIFICATE_VIEW_FULL,
        )
        response = pb.ListCertificatesResponse()
        for record in page.records:
            write_certificate(response.certificates.add(), record)
        if page.next_after is not None:
            response.next_page_token = page_token(criteria, page.next_after)
        return response

    async def GetLedgerStats(  # noqa: N802
        self, request: pb.GetLedgerStatsRequest, context: Context
    ) -> pb.GetLedgerStatsResponse:
        """Return counts."""
        response = pb.GetLedgerStatsResponse()
        write_counts(response, await self._authority.count_certificates(time_of(request)))
        return response
