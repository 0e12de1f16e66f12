"""Conversions of messages about revocation."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.authority import CrlName, Revocation, RevocationOutcome, RevocationRequest
from otahsm.errors import OtahsmError, RequestRefusedError
from otahsm.errors.status import to_status
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import revocation_pb2 as pb

_REASONS: Final = {reason.code: reason for reason in Reason}


def revocation_of(target: pb.RevocationTarget) -> RevocationRequest | RequestRefusedError:
    """Return the request of a target, or the error if it is malformed."""
    if target.reason not in _REASONS:
        return RequestRefusedError("reason", f"there is no reason {target.reason}")
    serial: SerialNumber | None = None
    if target.WhichOneof("target") == "serial_number":
        try:
            serial = SerialNumber.from_octets(target.serial_number)
        except RequestRefusedError as error:
            return error
    return RevocationRequest(serial, target.device_id, target.profile, _REASONS[target.reason])


def write_revocation(result: pb.RevocationResult, outcome: RevocationOutcome) -> None:
    """Write the outcome of a target to a result."""
    if isinstance(outcome, OtahsmError):
        result.error.CopyFrom(to_status(outcome))
    else:
        result.certificates.extend(map(_revoked_certificate, outcome))


def crl_name_of(request: pb.GetCrlRequest) -> CrlName:
    """Return the name of the requested CRL."""
    match request.WhichOneof("scope"):
        case "url":
            return CrlName(request.ca, url=request.url)
        case "shard":
            return CrlName(request.ca, shard=request.shard)
        case "authorities":
            return CrlName(request.ca, authorities=request.authorities)
    return CrlName(request.ca)


def _revoked_certificate(item: Revocation) -> pb.RevokedCertificate:
    return pb.RevokedCertificate(
        serial_number=item.serial.octets,
        device_id=item.device_id,
        profile=item.profile,
        revoke_time=Timestamp(seconds=item.revoked_at),
        reason=pb.RevocationReason.ValueType(Reason(item.reason).code),
        already_revoked=item.before,
    )
