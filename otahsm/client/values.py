"""What a client sends and receives, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

from otahsm.errors import Code, NotAllowedError, OtahsmError
from otahsm.pki import MAX_CSR_BYTES, SerialNumber
from otahsm.v1 import authority_pb2, issuance_pb2

# Of these, what the policy refuses does not last: an operator can change it.
_LASTING: Final = {Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS, Code.PERMISSION_DENIED}


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

    def message(self, request_id: str, profile: str) -> issuance_pb2.CertificateRequest:
        """Write it, under a request id and a profile."""
        return issuance_pb2.CertificateRequest(
            request_id=request_id,
            profile=profile,
            device_id=self.device_id,
            # One byte too many is refused as surely as a million, and must not sink its neighbours.
            csr=self.csr[: MAX_CSR_BYTES + 1],
            batch=self.batch,
            attributes=dict(self.attributes),
        )


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
    serial: SerialNumber
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
            serial=SerialNumber.from_key(message.serial_number),
            chain=tuple(message.chain),
            not_before=message.not_before_time.ToDatetime(tzinfo=UTC),
            not_after=message.not_after_time.ToDatetime(tzinfo=UTC),
            replayed=message.replayed,
            trust_anchor=message.trust_anchor,
        )


class Refused:
    """What was refused, by the error that the daemon answered with, or that kept the client from asking.

    Attributes:
        error: of the class that it has at the daemon.
    """

    __slots__ = ()

    error: OtahsmError

    @property
    def code(self) -> str:
        """The canonical code's name, as in "INVALID_ARGUMENT"."""
        return self.error.code.name

    @property
    def reason(self) -> str:
        """Stable, for programs, as in "BAD_REQUEST"."""
        return self.error.reason

    @property
    def message(self) -> str:
        """What is wrong, for people."""
        return self.error.message

    @property
    def hint(self) -> str:
        """What to do about it."""
        return self.error.hint


@dataclass(frozen=True, slots=True)
class Refusal(Refused):
    """Why there is no certificate; see `Refused`."""

    request: CertificateRequest
    error: OtahsmError

    @property
    def retry_after(self) -> float | None:
        """The seconds after which there will be room in a quota; None: nobody knows, or never."""
        return self.error.retry_after

    def passes_within(self, seconds: float) -> bool:
        """Return whether the same request may be granted if it is made again a little later."""
        after = self.error.retry_after
        return self.error.code is Code.UNAVAILABLE or (after is not None and after <= seconds)

    @property
    def lasting(self) -> bool:
        """Whether the request itself is refused, and not the CA, the daemon or the moment to blame."""
        return self.error.code in _LASTING and not isinstance(self.error, NotAllowedError)


Result: TypeAlias = IssuedCertificate | Refusal


class Job(NamedTuple):
    """Something that the daemon does again and again, beside answering calls.

    Attributes:
        failing_reason: why it fails now; "" while it doesn't.
        failing_since: None while it doesn't.
        fault_count: how often it failed by a fault in otahsm, since the daemon started.
    """

    name: str
    failing_reason: str
    failing_since: datetime | None
    fault_count: int

    @classmethod
    def from_message(cls, message: authority_pb2.Job) -> Job:
        """Read it from the wire."""
        has_since = message.HasField("failing_since_time")
        since = message.failing_since_time.ToDatetime(tzinfo=UTC) if has_since else None
        return cls(message.name, message.failing_reason, since, message.fault_count)


class Authority(NamedTuple):
    """The CA: its subject, its certificates in DER, and whether it can sign now; and the daemon's jobs."""

    subject: str
    chain: tuple[bytes, ...]
    trust_anchor: bytes
    key_type: str
    not_after: datetime
    ready_signers: int
    not_serving_reason: str
    jobs: tuple[Job, ...] = ()

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
            tuple(map(Job.from_message, message.jobs)),
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
