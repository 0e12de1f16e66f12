"""The values that a client sends and receives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

from otahsm.client.moments import moment_of
from otahsm.errors import Code, NotAllowedError, OtahsmError
from otahsm.pki.csr import MAX_CSR_BYTES
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import authority_pb2, issuance_pb2

# Permanent refusals. Except those of the policy, which an operator can change.
_LASTING: Final = {Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS, Code.PERMISSION_DENIED}


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """One CSR for one device.

    Attributes:
        csr: PKCS#10 in DER, at most 16 KiB.
        device_id: what the CSR's common name must be; empty to accept any.
        request_id: 1 to 128 printable ASCII characters; empty to derive one from profile and CSR.
        batch: the name of the batch to issue in; empty for none.
        attributes: names and values for the profile's subject.
    """

    csr: bytes
    device_id: str = ""
    request_id: str = ""
    batch: str = ""
    attributes: tuple[tuple[str, str], ...] = ()

    def message(self, request_id: str, profile: str) -> issuance_pb2.CertificateRequest:
        """Return it as a message, with a request id and a profile."""
        return issuance_pb2.CertificateRequest(
            request_id=request_id,
            profile=profile,
            device_id=self.device_id,
            # Truncated, so that an oversized CSR is refused alone, and not the whole message.
            csr=self.csr[: MAX_CSR_BYTES + 1],
            batch=self.batch,
            attributes=dict(self.attributes),
        )


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate.

    Attributes:
        request: the request that it was issued for.
        device_id: the certificate's common name.
        chain: DER certificates, the device's first, without the trust anchor.
        replayed: whether it was issued earlier, and is returned again.
        trust_anchor: the root that the chain leads to, in DER.
    """

    request: CertificateRequest
    device_id: str
    serial: SerialNumber
    chain: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime
    replayed: bool
    trust_anchor: bytes = b""


class Refused:
    """A failed request, with the error of the daemon or of the connection.

    Attributes:
        error: an instance of the same class as at the daemon.
    """

    __slots__ = ()

    error: OtahsmError

    @property
    def code(self) -> str:
        """The name of the gRPC code, such as "INVALID_ARGUMENT"."""
        return self.error.code.name

    @property
    def reason(self) -> str:
        """A stable reason for programs, such as "BAD_REQUEST"."""
        return self.error.reason

    @property
    def message(self) -> str:
        """A human-readable description of what is wrong."""
        return self.error.message

    @property
    def hint(self) -> str:
        """A human-readable hint about what to do."""
        return self.error.hint


@dataclass(frozen=True, slots=True)
class Refusal(Refused):
    """Why there is no certificate; see `Refused`."""

    request: CertificateRequest
    error: OtahsmError

    @property
    def retry_after(self) -> float | None:
        """The seconds until the quota allows a retry; None if unknown, or never."""
        return self.error.retry_after

    def passes_within(self, seconds: float) -> bool:
        """Return whether the same request may succeed if it is retried within `seconds`."""
        after = self.error.retry_after
        return self.error.code is Code.UNAVAILABLE or (after is not None and after <= seconds)

    @property
    def lasting(self) -> bool:
        """Whether the request itself is refused, so that a retry can't succeed."""
        return self.error.code in _LASTING and not isinstance(self.error, NotAllowedError)


Result: TypeAlias = IssuedCertificate | Refusal


class Job(NamedTuple):
    """A periodic background job of the daemon.

    Attributes:
        failing_reason: why it is failing; "" if it is not.
        failing_since: when it started to fail; None if it is not failing.
        fault_count: the number of internal errors since the daemon started.
    """

    name: str
    failing_reason: str
    failing_since: datetime | None
    fault_count: int

    @classmethod
    def from_message(cls, message: authority_pb2.Job) -> Job:
        """Return the value of a message."""
        has_since = message.HasField("failing_since_time")
        since = moment_of(message.failing_since_time) if has_since else None
        return cls(message.name, message.failing_reason, since, message.fault_count)


class Authority(NamedTuple):
    """The CA: its subject, its certificates in DER, and whether it can sign now; and the daemon's jobs.

    Attributes:
        other_anchors: the roots of the daemon's other CAs, in DER.
    """

    subject: str
    chain: tuple[bytes, ...]
    trust_anchor: bytes
    key_type: str
    not_after: datetime
    ready_signers: int
    not_serving_reason: str
    jobs: tuple[Job, ...] = ()
    other_anchors: tuple[bytes, ...] = ()

    @property
    def anchors(self) -> tuple[bytes, ...]:
        """The roots of all CAs of the daemon."""
        return self.trust_anchor, *self.other_anchors

    @classmethod
    def from_message(cls, message: authority_pb2.Authority) -> Authority:
        """Return the value of a message."""
        return cls(
            message.subject,
            tuple(message.chain),
            message.trust_anchor,
            message.key_type,
            moment_of(message.not_after_time),
            message.ready_signers,
            message.not_serving_reason,
            tuple(map(Job.from_message, message.jobs)),
            tuple(message.other_trust_anchors),
        )


class Profile(NamedTuple):
    """A profile.

    Attributes:
        is_default: whether it is used when a request names no profile.
        device_id_pattern: a regular expression that must match the whole device id.
        key_types: the key types that CSRs may have.
        subject: the attributes that follow the common name, such as "OU={plant}".
        attributes: the names of the values that a request must give.
        validity: how long a certificate is valid; it never outlives the CA certificate.
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
        """Return the value of a message."""
        return cls(
            message.name,
            message.is_default,
            message.device_id_pattern,
            tuple(message.key_types),
            tuple(message.subject),
            frozenset(message.attributes),
            message.validity.ToTimedelta(),
        )
