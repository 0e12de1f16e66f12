"""Queries on a daemon's ledger."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.client.calls import Calls, Service
from otahsm.client.moments import day_of, moment_of
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import ledger_pb2 as pb
from otahsm.v1 import ledger_pb2_grpc

_PAGE: Final = 1000
_SECONDS: Final = 120.0  # counting ten million certificates takes about twenty
_PREFIX: Final = "CERTIFICATE_STATUS_"


@dataclass(frozen=True, slots=True)
class Query:
    """Selects certificates, those that match every attribute that is set, and their order.

    Attributes:
        device_id, client, profile, batch: empty for any.
        status: "open", "issued", "void", "superseded", "revoked"; empty for any.
        after, before: the range of the intent's time, with a time zone; `after` is inclusive, `before`
            exclusive.
        newest_first: whether to return the latest first.
    """

    device_id: str = ""
    client: str = ""
    profile: str = ""
    status: str = ""
    after: datetime | None = None
    before: datetime | None = None
    batch: str = ""
    newest_first: bool = False

    def message(self) -> pb.ListCertificatesRequest:
        """Return it as a message. Raises ValueError: the status is invalid."""
        message = pb.ListCertificatesRequest(
            device_id=self.device_id,
            client=self.client,
            profile=self.profile,
            batch=self.batch,
            newest_first=self.newest_first,
        )
        if self.status:
            message.status = pb.CertificateStatus.Value(_PREFIX + self.status.upper())
        if self.after is not None:
            message.issued_after.FromDatetime(self.after)
        if self.before is not None:
            message.issued_before.FromDatetime(self.before)
        return message


class LedgerEntry(NamedTuple):
    """The ledger's record of a certificate, or of the intent to issue it.

    Attributes:
        status: as in `Query`, or a status of a newer daemon.
        client: the identity of the client that requested it, such as "cn:line-3"; `client_certificate_sha256`
            is the SHA-256 of its TLS certificate.
        request_id: the client's id for the request, or empty.
        intended_at, issued_at, voided_at: UTC; None if it was not.
        certificate: DER; empty if there is none, or it was not requested.
        policy_client: the client's name in the policy then; empty if an older daemon recorded it.
    """

    serial: SerialNumber
    status: str
    device_id: str
    profile: str
    client: str
    client_certificate_sha256: bytes
    request_id: str
    public_key_sha256: bytes
    tbs_sha256: bytes
    not_before: datetime
    not_after: datetime
    intended_at: datetime
    issued_at: datetime | None
    voided_at: datetime | None
    void_reason: str
    certificate: bytes
    batch: str = ""
    policy_client: str = ""

    @classmethod
    def from_message(cls, message: pb.Certificate) -> LedgerEntry:
        """Return the value of a message."""
        return cls(
            SerialNumber.from_key(message.serial_number),
            _status_name(message.status),
            message.device_id,
            message.profile,
            message.client,
            message.client_certificate_sha256,
            message.request_id,
            message.public_key_sha256,
            message.tbs_sha256,
            _moment(message.not_before_time),
            _moment(message.not_after_time),
            _moment(message.intend_time),
            _moment(message.issue_time) if message.HasField("issue_time") else None,
            _moment(message.void_time) if message.HasField("void_time") else None,
            message.void_reason,
            message.certificate,
            message.batch,
            message.policy_client,
        )


class Count(NamedTuple):
    """The number of certificates with the same day (UTC), profile, client and status.

    Attributes:
        client, policy_client: as in `LedgerEntry`.
    """

    day: date
    profile: str
    client: str
    status: str
    certificates: int
    policy_client: str = ""

    @classmethod
    def from_message(cls, message: pb.CertificateCount) -> Count:
        """Return the value of a message."""
        day = day_of(message.date.year, message.date.month, message.date.day)
        status = _status_name(message.status)
        return cls(day, message.profile, message.client, status, message.count, message.policy_client)


class LedgerClient:
    """`Client.ledger`: queries the ledger.

    Every method raises OtahsmError: the daemon can't be reached or refuses.
    """

    def __init__(self, calls: Calls) -> None:
        self._service = Service(calls, ledger_pb2_grpc.LedgerServiceStub, _SECONDS)

    async def by_serial(self, serial: SerialNumber) -> tuple[LedgerEntry, tuple[bytes, ...]]:
        """Return the entry with a serial number, and its chain in DER: the device's certificate first.

        Raises:
            NotFoundError: there is none.
        """
        return await self._get(pb.GetCertificateRequest(serial_number=serial.octets))

    async def by_device(self, device_id: str, profile: str = "") -> tuple[LedgerEntry, tuple[bytes, ...]]:
        """Return a device's current entry under a profile (empty for the default), and its chain.

        Raises:
            NotFoundError: there is none, or it was voided.
        """
        return await self._get(pb.GetCertificateRequest(device_id=device_id, profile=profile))

    async def page(
        self, query: Query, token: str = "", *, size: int = 100, full: bool = False
    ) -> tuple[list[LedgerEntry], str]:
        """Return a page, and the token of the next page; empty at the end.

        Args:
            query: which certificates, and in which order.
            token: the token of the page; empty for the first.
            size: the most entries to return, up to 1,000; there may be fewer, or none, before the end.
            full: whether to include the certificates.
        """
        request = query.message()
        request.page_token = token
        request.page_size = size
        request.view = pb.CERTIFICATE_VIEW_FULL if full else pb.CERTIFICATE_VIEW_BASIC
        response = await self._service.call(lambda stub: stub.ListCertificates, request)
        return [LedgerEntry.from_message(item) for item in response.certificates], response.next_page_token

    async def everything(self, query: Query, *, full: bool = False) -> AsyncGenerator[LedgerEntry, None]:
        """Yield all matching entries in the query's order, page by page."""
        token = ""
        while True:
            entries, token = await self.page(query, token, size=_PAGE, full=full)
            for entry in entries:
                yield entry
            if not token:
                return

    async def counts(self, query: Query) -> list[Count]:
        """Count the certificates in the period of a query, by day, profile, client and status."""
        message = query.message()
        request = pb.GetLedgerStatsRequest()
        for name in ("issued_after", "issued_before"):
            if message.HasField(name):
                getattr(request, name).CopyFrom(getattr(message, name))
        response = await self._service.call(lambda stub: stub.GetLedgerStats, request)
        return [Count.from_message(item) for item in response.counts]

    async def _get(self, request: pb.GetCertificateRequest) -> tuple[LedgerEntry, tuple[bytes, ...]]:
        response = await self._service.call(lambda stub: stub.GetCertificate, request)
        return LedgerEntry.from_message(response.certificate), tuple(response.chain)


def _status_name(number: int) -> str:
    names = pb.CertificateStatus.DESCRIPTOR.values_by_number
    return names[number].name.removeprefix(_PREFIX).lower() if number in names else f"status {number}"


def _moment(time: Timestamp) -> datetime:
    return moment_of(time)
