"""Between the ledger service's messages and the ledger's values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import CertificateKey, DeviceKey, Entry, Filter, Group, Status
from otahsm.errors import RequestRefusedError
from otahsm.pki import SerialNumber
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

_Asked: TypeAlias = pb.ListCertificatesRequest | pb.GetLedgerStatsRequest


def text_of(field: str, text: str) -> str:
    """Check a text that is looked for. Raises RequestRefusedError."""
    if len(text) > _MAX_TEXT or "\0" in text:
        raise RequestRefusedError(field, f"{field} is at most {_MAX_TEXT} characters, none of them NUL")
    return text


def key_of(request: pb.GetCertificateRequest) -> CertificateKey:
    """Read which certificate is wanted. Raises RequestRefusedError."""
    if request.WhichOneof("key") == "serial_number":
        if request.profile:
            raise RequestRefusedError("profile", "a profile goes with a device id")
        return SerialNumber.from_octets(request.serial_number)
    if not request.device_id:
        raise RequestRefusedError("key", "give either a serial number or a device id")
    return DeviceKey(text_of("device_id", request.device_id), text_of("profile", request.profile))


def filter_of(request: pb.ListCertificatesRequest) -> Filter:
    """Read what is wanted. Raises RequestRefusedError."""
    return time_of(request)._replace(
        device_id=text_of("device_id", request.device_id),
        client=text_of("client", request.client),
        profile=text_of("profile", request.profile),
        status=_status_of(request.status),
        batch=text_of("batch", request.batch),
        newest_first=request.newest_first,
    )


def time_of(request: _Asked) -> Filter:
    """Read which time is wanted. Raises RequestRefusedError."""
    after, before = (
        _milliseconds(field, getattr(request, field)) if request.HasField(field) else None
        for field in ("issued_after", "issued_before")
    )
    return Filter(after=after, before=before)


def entry_message(entry: Entry) -> pb.Certificate:
    """Return an entry as a message."""
    message = pb.Certificate()
    write_entry(message, entry)
    return message


def write_entry(message: pb.Certificate, entry: Entry) -> None:
    """Write an entry."""
    message.serial_number = entry.serial.octets
    message.status = STATUSES[entry.status]
    message.device_id = entry.device_id
    message.profile = entry.profile
    message.client = entry.client
    message.client_certificate_sha256 = entry.client_certificate_sha256
    message.request_id = entry.request_id
    message.public_key_sha256 = entry.spki_sha256
    message.tbs_sha256 = entry.tbs_sha256
    message.not_before_time.seconds = entry.not_before
    message.not_after_time.seconds = entry.not_after
    message.intend_time.FromMicroseconds(entry.intended_at)
    if entry.recorded_at is not None:
        message.issue_time.FromMicroseconds(entry.recorded_at)
    if entry.voided_at is not None:
        message.void_time.FromMicroseconds(entry.voided_at)
    message.void_reason = entry.void_reason or ""
    message.certificate = entry.certificate or b""
    message.batch = entry.batch or ""


def write_counts(response: pb.GetLedgerStatsResponse, counts: Mapping[Group, int]) -> None:
    """Write counts, in order."""
    for group, count in sorted(counts.items()):
        message = response.counts.add()
        day = _EPOCH + timedelta(days=group.day)
        message.date.year, message.date.month, message.date.day = day.year, day.month, day.day
        message.profile = group.profile
        message.client = group.client
        message.status = STATUSES[group.status]
        message.count = count


def _status_of(number: int) -> Status | None:
    if number == pb.CERTIFICATE_STATUS_UNSPECIFIED:
        return None
    try:
        return _BY_NUMBER[pb.CertificateStatus.ValueType(number)]
    except KeyError:
        raise RequestRefusedError("status", f"there is no status {number}") from None


def microseconds_of(field: str, moment: Timestamp) -> int:
    """Read a time into microseconds since the Unix epoch, upwards. Raises RequestRefusedError."""
    _check_time(field, moment)
    return moment.seconds * 1_000_000 - -moment.nanos // 1000


def _check_time(field: str, moment: Timestamp) -> None:
    if moment.seconds not in _SECONDS or moment.nanos not in _NANOS:
        raise RequestRefusedError(field, f"{field} is no time of the years 1 to 9999")


def _milliseconds(field: str, moment: Timestamp) -> int:
    _check_time(field, moment)
    return moment.seconds * 1000 - -moment.nanos // 1_000_000  # upwards: from the first full millisecond on
