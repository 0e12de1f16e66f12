"""Revoking certificates, and fetching CRLs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple

from otahsm.client.backoff import Backoff
from otahsm.client.calls import Calls, Service
from otahsm.client.moments import moment_of
from otahsm.client.values import Refused
from otahsm.errors import Code, OtahsmError
from otahsm.errors.status import from_status
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import revocation_pb2 as pb
from otahsm.v1 import revocation_pb2_grpc

_AT_ONCE: Final = 256  # targets per call, the daemon's limit
_CALL_SECONDS: Final = 60.0
_REASONS: Final = {reason.code: reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class ToRevoke:
    """A certificate to revoke, by its serial number, or all certificates of a device.

    Attributes:
        serial: the certificate's serial number; None to revoke by device.
        device_id: the device; empty if there is a serial number.
        profile: only certificates under this profile; empty for all.
    """

    serial: SerialNumber | None = None
    device_id: str = ""
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A durably revoked certificate.

    Attributes:
        target: the target that matched it.
        revoked_at: when it was revoked, in UTC.
        reason: the reason; if it was already revoked, the original one.
        before: whether it was already revoked.
    """

    target: ToRevoke
    serial: SerialNumber
    device_id: str
    profile: str
    revoked_at: datetime
    reason: Reason
    before: bool


@dataclass(frozen=True, slots=True)
class NotRevoked(Refused):
    """A target that was not revoked, and why; see `Refused`."""

    target: ToRevoke
    error: OtahsmError


class FetchedCrl(NamedTuple):
    """A CRL in DER, and the daemon's metadata; its signature is not verified. Times are in UTC."""

    der: bytes
    number: int
    this_update: datetime
    next_update: datetime
    revoked: int


class RevocationClient:
    """`Client.revocation`: revokes certificates, and fetches CRLs."""

    def __init__(self, calls: Calls) -> None:
        self._patience = calls.patience
        self._service = Service(calls, revocation_pb2_grpc.RevocationServiceStub, _CALL_SECONDS)

    async def revoke(
        self, targets: Iterable[ToRevoke], reason: Reason
    ) -> AsyncIterator[Revoked | NotRevoked]:
        """Revoke certificates; yield each revoked certificate, and each target that can't be revoked.

        A target that is still being issued is retried. It is safe to repeat this: revoked certificates don't
        change.

        Args:
            targets: any number.
            reason: the revocation reason.

        Raises:
            OtahsmError: the daemon can't be reached, or refuses the call.
        """
        source = iter(targets)
        while chunk := list(islice(source, _AT_ONCE)):
            for outcome in await self._revoke(chunk, reason):
                yield outcome

    async def crl(
        self, *, url: str = "", shard: int | None = None, authorities: bool = False, ca: str = ""
    ) -> FetchedCrl:
        """Return a CRL: the complete one, or that of a URL, of a shard, or of the CA certificates.

        Args:
            url: as in certificates.
            shard: the number of the shard, from 0.
            authorities: whether to return that of CA certificates.
            ca: the name of the CA, as in the daemon's configuration; "" for [ca].

        Raises:
            OtahsmError: it does not exist, or the daemon can't be reached.
        """
        request = pb.GetCrlRequest(ca=ca)
        if url:
            request.url = url
        elif shard is not None:
            request.shard = shard
        elif authorities:
            request.authorities = True
        response = await self._service.call(lambda stub: stub.GetCrl, request)
        return FetchedCrl(
            response.crl,
            response.number,
            moment_of(response.this_update_time),
            moment_of(response.next_update_time),
            response.revoked_count,
        )

    async def _revoke(self, chunk: list[ToRevoke], reason: Reason) -> list[Revoked | NotRevoked]:
        """Revoke one chunk; retry targets that are temporarily unavailable."""
        deadline, backoff = time.monotonic() + self._patience, Backoff()
        outcomes: list[Revoked | NotRevoked] = []
        while chunk:
            request = pb.RevokeCertificatesRequest(targets=[_message(target, reason) for target in chunk])
            response = await self._service.call(lambda stub: stub.RevokeCertificates, request)
            again: list[ToRevoke] = []
            for target, result in zip(chunk, response.results, strict=True):
                if result.HasField("error"):
                    error = from_status(result.error)
                    if error.code is Code.UNAVAILABLE and time.monotonic() < deadline:
                        again.append(target)
                    else:
                        outcomes.append(NotRevoked(target, error))
                else:
                    outcomes += _revoked(target, result)
            chunk = again
            if again:
                await backoff.pause()
        return outcomes


def _message(target: ToRevoke, reason: Reason) -> pb.RevocationTarget:
    message = pb.RevocationTarget(profile=target.profile, reason=pb.RevocationReason.ValueType(reason.code))
    if target.serial is not None:
        message.serial_number = target.serial.octets
    else:
        message.device_id = target.device_id
    return message


def _revoked(target: ToRevoke, result: pb.RevocationResult) -> Iterator[Revoked]:
    for item in result.certificates:
        yield Revoked(
            target,
            SerialNumber.from_key(item.serial_number),
            item.device_id,
            item.profile,
            moment_of(item.revoke_time),
            _REASONS.get(item.reason, Reason.UNSPECIFIED),
            item.already_revoked,
        )
