"""What a client sends and receives, as values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from otahsm.errors import OtahsmError
from otahsm.v1 import authority_pb2, issuance_pb2

_LASTING: Final = {"INVALID_ARGUMENT", "ALREADY_EXISTS", "PERMISSION_DENIED"}
_POLICY: Final = {"NOT_ALLOWED", "CUT_OFF"}  # which an operator changes


_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """One CSR for one device.

    Attributes:
        csr: PKCS#10 in DER, at most 16 KiB.
        device_id: what the CSR's common name must be; empty to take it as it is.
        request_id: 1 to 128 printable ASCII characters; empty to have one made from profile and CSR.
        batch: the name of the batch that the certificate counts in; empty for none.
        attributes: names and values of what the profile's subject needs to know.
    """

    csr: bytes
    device_id: str = ""
    request_id: str = ""
    batch: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate.

    Attributes:
        request: what it was issued for.
        device_id: the certificate's common name.
        chain: DER certificates, the device's first, without the trust anchor.
        replayed: it had been issued before, and is returned again.
        trust_anchor: the root in DER, if it is another than `Authority.trust_anchor`; else empty.
    """

    request: CertificateRequest
    device_id: str
    serial: int
    chain: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime
    replayed: bool
    trust_anchor: bytes = b""

    @classmethod
    def from_message(
        cls, request: CertificateRequest, message: issuance_pb2.IssuedCertificate
    ) -> IssuedCertificate:
        """Read it from the wire."""
        return cls(
            request=request,
            device_id=message.device_id,
            serial=int.from_bytes(message.serial_number, "big"),
            chain=tuple(message.chain),
            not_before=message.not_before_time.ToDatetime(tzinfo=UTC),
            not_after=message.not_after_time.ToDatetime(tzinfo=UTC),
            replayed=message.replayed,
            trust_anchor=message.trust_anchor,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no certificate.

    Attributes:
        code: the canonical code's name, as in "INVALID_ARGUMENT".
        reason: stable, for programs, as in "BAD_REQUEST".
        message: what is wrong, for people.
        hint: what to do about it.
        retry_after: in so many seconds there will be room in a quota; None: nobody knows, or never.
    """

    request: CertificateRequest
    code: str
    reason: str
    message: str
    hint: str
    retry_after: float | None = None

    def passes_within(self, seconds: float) -> bool:
        """Tell whether the same request may be granted if it is made again a little later."""
        return self.code == "UNAVAILABLE" or (self.retry_after is not None and self.retry_after <= seconds)

    @property
    def lasting(self) -> bool:
        """Whether the request itself is refused, and not the CA, the daemon or the moment to blame."""
        return self.code in _LASTING and self.reason not in _POLICY

    @classmethod
    def from_status(cls, request: CertificateRequest, status: Status) -> Refusal:
        """Read it from the wire."""
        delay = next((detail.retry_delay for detail in _details(status, RetryInfo)), None)
        seconds = None if delay is None else delay.ToMicroseconds() / 1_000_000
        return cls(request, *refused_in(status), seconds)

    @classmethod
    def from_error(cls, request: CertificateRequest, error: OtahsmError) -> Refusal:
        """Say that the client itself could not go on."""
        return cls(request, error.code.name, error.reason, error.message, error.hint)


Result: TypeAlias = IssuedCertificate | Refusal


class Authority(NamedTuple):
    """The CA: its subject, its certificates in DER, and whether it can sign now."""

    subject: str
    chain: tuple[bytes, ...]
    trust_anchor: bytes
    key_type: str
    not_after: datetime
    ready_signers: int
    not_serving_reason: str

    @classmethod
    def from_message(cls, message: authority_pb2.Authority) -> Authority:
        """Read it from the wire."""
        return cls(
            message.subject,
            tuple(message.chain),
            message.trust_anchor,
            message.key_type,
            message.not_after_time.ToDatetime(tzinfo=UTC),
            message.ready_signers,
            message.not_serving_reason,
        )


class Profile(NamedTuple):
    """What may be issued.

    Attributes:
        is_default: the one that an empty name stands for.
        device_id_pattern: a regular expression for whole device ids.
        key_types: that CSRs may have.
        subject: what follows the common name, as in "OU={plant}".
        attributes: what a request must say.
        validity: how long a certificate is valid, unless the CA ends before.
    """

    name: str
    is_default: bool
    device_id_pattern: str
    key_types: tuple[str, ...]
    subject: tuple[str, ...]
    attributes: frozenset[str]
    validity: timedelta

    @classmethod
    def from_message(cls, message: authority_pb2.Profile) -> Profile:
        """Read it from the wire."""
        return cls(
            message.name,
            message.is_default,
            message.device_id_pattern,
            tuple(message.key_types),
            tuple(message.subject),
            frozenset(message.attributes),
            message.validity.ToTimedelta(),
        )


class Refused(NamedTuple):
    """What a status of the daemon's says; see `Refusal`."""

    code: str
    reason: str
    message: str
    hint: str


def refused_in(status: Status) -> Refused:
    """Read a status of the daemon's."""
    info = next(_details(status, ErrorInfo), ErrorInfo())
    return Refused(Code.Name(status.code), info.reason, status.message, info.metadata.get("hint", ""))


def trailing_status(error: grpc.aio.AioRpcError) -> Status | None:
    """Return what the daemon itself said when it ended a call; None if it said nothing."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return Status.FromString(value)
    return None


def _details(status: Status, kind: type[_Detail]) -> Iterator[_Detail]:
    """Yield the details of a kind that a status has."""
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            yield message
