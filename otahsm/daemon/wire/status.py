"""Writes errors as the wire's statuses."""

from __future__ import annotations

from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from otahsm.errors import OtahsmError, QuotaError, RequestRefusedError

ERROR_DOMAIN: Final = "otahsm"


def status_of(error: OtahsmError) -> Status:
    """Write an error: its code and message, why for programs, what to do for people."""
    details: list[Message] = [
        ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata={"hint": error.hint})
    ]
    if isinstance(error, QuotaError) and error.retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(int(error.retry_after * 1_000_000))
        details.append(RetryInfo(retry_delay=delay))
    if isinstance(error, RequestRefusedError):
        violations = [
            BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
        details.append(BadRequest(field_violations=violations))
    status = Status(code=error.code, message=error.message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status
