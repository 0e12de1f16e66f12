"""What a client asks about the ledger, and what it learns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.pki import SerialNumber
from otahsm.v1 import ledger_pb2 as pb

_PREFIX = "CERTIFICATE_STATUS_"


@dataclass(frozen=True, slots=True)
class Query:
    """What is wanted: what fits everything that is given.

    Attributes:
        device_id, client, profile, batch: empty for any.
        status: "open", "issued", "void"; empty for any.
        after, before: when it was intended, from `after` on and before `before`; with a time zone.
    """

    device_id: str = ""
    client: str = ""
    profile: str = ""
    status: str = ""
    after: datetime | None = None
    before: datetime | None = None
    batch: str = ""

    def message(self) -> pb.ListCertificatesRequest:
        """Write it. Raises ValueError: there is no such status."""
        message = pb.ListCertificatesRequest(
            device_id=self.device_id, client=self.client, profile=self.profile, batch=self.batch
        )
        if self.status:
            message.status = pb.CertificateStatus.Value(_PREFIX + self.status.upper())
        if self.after is not None:
            message.issued_after.FromDatetime(self.after)
        if self.before is not None:
            message.issued_before.FromDatetime(self.before)
        return message


class LedgerEntry(NamedTuple):
    """An intention to issue a certificate, and what came of it.

    Attributes:
        status: "open", "issued", "void", or what a newer daemon may say.
        client: who asked, as in "cn:line-3"; `client_certificate_sha256` tells with which TLS certificate.
        request_id: the client's own name for the request, or empty.
        intended_at, issued_at, voided_at: UTC; None: it was not.
        certificate: DER; empty if there is none, or it was not asked for.
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

    @classmethod
    def from_message(cls, message: pb.Certificate) -> LedgerEntry:
        """Read it from the wire."""
        return cls(
            SerialNumber.from_octets(message.serial_number),
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
        )


class Count(NamedTuple):
    """How many entries have a day (UTC), a profile, a client and a status in common."""

    day: date
    profile: str
    client: str
    status: str
    certificates: int

    @classmethod
    def from_message(cls, message: pb.CertificateCount) -> Count:
        """Read it from the wire."""
        day = date(message.date.year, message.date.month, message.date.day)
        return cls(day, message.profile, message.client, _status_name(message.status), message.count)


def _status_name(number: int) -> str:
    names = pb.CertificateStatus.DESCRIPTOR.values_by_number
    return names[number].name.removeprefix(_PREFIX).lower() if number in names else f"status {number}"


def _moment(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC)
