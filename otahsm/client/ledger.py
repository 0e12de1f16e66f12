"""Asks a daemon what is in its ledger. What fails for a passing reason is asked again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import grpc

from otahsm.client.asking import DaemonClient
from otahsm.client.ledger_values import Count, LedgerEntry, Query
from otahsm.pki import SerialNumber
from otahsm.v1 import ledger_pb2 as pb
from otahsm.v1 import ledger_pb2_grpc

_PAGE: Final = 1000
_SECONDS: Final = 120.0  # counting ten million takes some twenty


class LedgerClient(DaemonClient):
    """A client that reads the ledger; see `DaemonClient`.

    Every method raises OtahsmError: the daemon can't be reached or refuses.
    """

    async def by_serial(self, serial: SerialNumber) -> tuple[LedgerEntry, tuple[bytes, ...]]:
        """Return the entry with a serial number, and its chain in DER: the device's certificate first.

        Raises:
            NotFoundError: there is none.
        """
        return await self._get(pb.GetCertificateRequest(serial_number=serial.octets))

    async def by_device(self, device_id: str, profile: str = "") -> tuple[LedgerEntry, tuple[bytes, ...]]:
        """Return the entry that a device has under a profile (empty: the daemon's default), and its chain.

        Raises:
            NotFoundError: there is none, or it was voided.
        """
        return await self._get(pb.GetCertificateRequest(device_id=device_id, profile=profile))

    async def page(
        self, query: Query, token: str = "", *, size: int = 100, full: bool = False
    ) -> tuple[list[LedgerEntry], str]:
        """Return a page, oldest first, and the token of the next; empty at the end.

        Args:
            query: what is wanted.
            token: empty for the first page.
            size: at most so many, up to 1,000; there may be fewer, also none, before the end.
            full: with their certificates.
        """
        request = query.message()
        request.page_token = token
        request.page_size = size
        request.view = pb.CERTIFICATE_VIEW_FULL if full else pb.CERTIFICATE_VIEW_BASIC
        response: pb.ListCertificatesResponse = await self._call(lambda stub: stub.ListCertificates, request)
        return [LedgerEntry.from_message(item) for item in response.certificates], response.next_page_token

    async def everything(self, query: Query, *, full: bool = False) -> AsyncGenerator[LedgerEntry, None]:
        """Yield all that is wanted, oldest first, page by page."""
        token = ""
        while True:
            entries, token = await self.page(query, token, size=_PAGE, full=full)
            for entry in entries:
                yield entry
            if not token:
                return

    async def counts(self, query: Query) -> list[Count]:
        """Count what is in the time of a query, by day, profile, client and status."""
        asked = query.message()
        request = pb.GetLedgerStatsRequest()
        for name in ("issued_after", "issued_before"):
            if asked.HasField(name):
                getattr(request, name).CopyFrom(getattr(asked, name))
        response: pb.GetLedgerStatsResponse = await self._call(lambda stub: stub.GetLedgerStats, request)
        return [Count.from_message(item) for item in response.counts]

    async def _get(self, request: pb.GetCertificateRequest) -> tuple[LedgerEntry, tuple[bytes, ...]]:
        response: pb.GetCertificateResponse = await self._call(lambda stub: stub.GetCertificate, request)
        return LedgerEntry.from_message(response.certificate), tuple(response.chain)

    async def _call(self, method: Callable[[Any], Any], request: object) -> Any:
        async def call(channel: grpc.aio.Channel, seconds: float) -> Any:
            return await method(ledger_pb2_grpc.LedgerServiceStub(channel))(request, timeout=seconds)

        return await self._ask(call, seconds=_SECONDS)
