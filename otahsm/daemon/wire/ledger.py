"""Conversions of messages of the ledger service."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import CertificateKey, CertificateRecord, CountKey, DeviceKey, Filter, Status
from otahsm.errors import RequestRefusedError
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import ledger_pb2 as pb

STATUSES: Final[Mapping[Status, pb.CertificateStatus.ValueType]] = {
    Status.OPEN: pb.CERTIFICATE_STATUS_OPEN,
    Status.ISSUED: pb.CERTIFICATE_STATUS_ISSUED,
    Status.SUPERSEDED: pb.CERTIFICATE_STATUS_SUPERSEDED,
    Status.REVOKED: pb.CERTIFICATE_STATUS_REVOKED,
    Status.VOID: pb.CERTIFICATE_STATUS_VOID,
}
_BY_NUMBER: Final = {number: status for status, number in STATUSES.items()}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS: Final = range(-62_135_596_800, 253_402_300_800)  # years 1 to 9999, as Timestamp has it
_NANOS: Final = range(1_000_000_000)
_MAX_TEXT: Final = 1024

_PeriodRequest: TypeAlias = pb.ListCertificatesRequest | pb.GetLedgerStatsRequest


def text_of(field: str, text: str) -> str:
    """Check a string of a query. Raises RequestRefusedError."""
    if len(text) > _MAX_TEXT or "\0" in text:
        raise RequestRefusedError(field, f"{field} must have at most {_MAX_TEXT} characters, without NUL")
    return text


def key_of(request: pb.GetCertificateRequest) -> CertificateKey:
    """Return the key of the requested certificate. Raises RequestRefusedError."""
    if request.WhichOneof("key") == "serial_number":
        if request.profile:
            raise RequestRefusedError("profile", "a profile requires a device id")
        return SerialNumber.from_octets(request.serial_number)
    if not request.device_id:
        raise RequestRefusedError("key", "give either a serial number or a device id")
    return DeviceKey(text_of("device_id", request.device_id), text_of("profile", request.profile))


def filter_of(request: pb.ListCertificatesRequest) -> Filter:
    """Return the filter of a request. Raises RequestRefusedError."""
    return time_of(request)._replace(
        device_id=text_of("device_id", request.device_id),
        client=text_of("client", request.client),
        profile=text_of("profile", request.profile),
        status=_status_of(request.status),
        batch=text_of("batch", request.batch),
        newest_first=request.newest_first,
    )


def time_of(request: _PeriodRequest) -> Filter:
    """Return a filter for the period of a request. Raises RequestRefusedError."""
    after, before = (
        _milliseconds(field, getattr(request, field)) if request.HasField(field) else None
        for field in ("issued_after", "issued_before")
    )
    return Filter(after=after, before=before)


def certificate_message(record: CertificateRecord) -> pb.Certificate:
    """Return a record as a message."""
    message = pb.Certificate()
    write_certificate(message, record)
    return message


def write_certificate(message: pb.Certificate, record: CertificateRecord) -> None:
    """Write a record to a message."""
    message.serial_number = record.serial.octets
    message.status = STATUSES[record.status]
    message.device_id = record.device_id
    message.profile = record.profile
    message.client = record.client
    message.client_certificate_sha256 = record.client_certificate_sha256
    message.request_id = record.request_id
    message.public_key_sha256 = record.spki_sha256
    message.tbs_sha256 = record.tbs_sha256
    message.not_before_time.seconds = record.not_before
    message.not_after_time.seconds = record.not_after
    message.intend_time.FromMicroseconds(record.intended_at)
    if record.recorded_at is not None:
        message.issue_time.FromMicroseconds(record.recorded_at)
    if record.voided_at is not None:
        message.void_time.FromMicroseconds(record.voided_at)
    message.void_reason = record.void_reason or ""
    message.certificate = record.certificate or b""
    message.batch = record.batch or ""
    message.policy_client = record.policy_client


def write_counts(response: pb.GetLedgerStatsResponse, counts: Mapping[CountKey, int]) -> None:
    """Write counts to a response, sorted."""
    for key, count in sorted(counts.items()):
        message = response.counts.add()
        day = _EPOCH + timedelta(days=key.day)
        message.date.year, message.date.month, message.date.day = day.year, day.month, day.day
        message.profile = key.profile
        message.client = key.client
        message.policy_client = key.policy_client
        message.status = STATUSES[key.status]
        message.count = count


def _status_of(number: int) -> Status | None:
    if number == pb.CERTIFICATE_STATUS_UNSPECIFIED:
        return None
    try:
        return _BY_NUMBER[pb.CertificateStatus.ValueType(number)]
    except KeyError:
        raise RequestRefusedError("status", f"there is no status {number}") from None


def microseconds_of(field: str, moment: Timestamp) -> int:
    """Return a time in microseconds since the Unix epoch, rounded up. Raises RequestRefusedError."""
    _check_time(field, moment)
    return moment.seconds * 1_000_000 - -moment.nanos // 1000


def _check_time(field: str, moment: Timestamp) -> None:
    if moment.seconds not in _SECONDS or moment.nanos not in _NANOS:
        raise RequestRefusedError(field, f"{field} must be in the years 1 to 9999")


def _milliseconds(field: str, moment: Timestamp) -> int:
    _check_time(field, moment)
    return moment.seconds * 1000 - -moment.nanos // 1_000_000  # rounded up
