"""An error as a `google.rpc.Status`, and back: the one mapping, for daemon and client alike.

The status has our code and message, an `ErrorInfo` with reason, hint and metadata, a `BadRequest` if fields
are wrong, and a `RetryInfo` if it is known when to ask again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from otahsm.errors.base import OtahsmError, Violation, from_reason

_DOMAIN: Final = "otahsm"
_HINT: Final = "hint"

_Detail = TypeVar("_Detail", bound=Message)


def to_status(error: OtahsmError) -> Status:
    """Write an error: its code and message, its reason for programs, and its hint for users."""
    metadata = {**error.metadata, _HINT: error.hint}
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=_DOMAIN, metadata=metadata)]
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(int(error.retry_after * 1_000_000))
        details.append(RetryInfo(retry_delay=delay))
    if error.violations:
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


def from_status(status: Status) -> OtahsmError:
    """Read an error that `to_status` wrote, here or in another version; another's becomes `UnknownError`."""
    info = next((item for item in _details(status, ErrorInfo) if item.domain == _DOMAIN), ErrorInfo())
    delay = next((item.retry_delay for item in _details(status, RetryInfo)), None)
    return from_reason(
        status.code,
        info.reason,
        status.message,
        info.metadata.get(_HINT),
        violations=tuple(
            Violation(item.field, item.description)
            for detail in _details(status, BadRequest)
            for item in detail.field_violations
        ),
        retry_after=None if delay is None else delay.ToMicroseconds() / 1_000_000,
        metadata={name: value for name, value in info.metadata.items() if name != _HINT},
    )


def _details(status: Status, kind: type[_Detail]) -> Iterator[_Detail]:
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            yield message
