"""Revocation: certificates to revoke go in, what became of each comes out; and CRLs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Final, NamedTuple

from otahsm.client.backoff import Backoff
from otahsm.client.calls import Calls, Service
from otahsm.client.values import Refused
from otahsm.errors import Code, OtahsmError
from otahsm.errors.status import from_status
from otahsm.pki import Reason, SerialNumber
from otahsm.v1 import revocation_pb2 as pb
from otahsm.v1 import revocation_pb2_grpc

_AT_ONCE: Final = 256  # targets in a call: the daemon's limit
_CALL_SECONDS: Final = 60.0
_REASONS: Final = {reason.code: reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class ToRevoke:
    """A certificate to revoke, by its serial number; or all of a device.

    Attributes:
        serial: the certificate's; None to name the device.
        device_id: whose certificates; empty if there is a serial number.
        profile: those under this profile alone; empty for all.
    """

    serial: SerialNumber | None = None
    device_id: str = ""
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that is durably revoked.

    Attributes:
        target: what it was revoked by.
        revoked_at: since when, UTC.
        reason: why; if it was revoked before, as was said then.
        before: it was revoked before this was asked.
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
    """A CRL in DER, and what the daemon says of it; its signature is not checked. Times are in UTC."""

    der: bytes
    number: int
    this_update: datetime
    next_update: datetime
    revoked: int


class RevocationClient:
    """`Client.revocation`: revokes, and fetches CRLs."""

    def __init__(self, calls: Calls) -> None:
        self._patience = calls.patience
        self._service = Service(calls, revocation_pb2_grpc.RevocationServiceStub, _CALL_SECONDS)

    async def revoke(
        self, targets: Iterable[ToRevoke], reason: Reason
    ) -> AsyncIterator[Revoked | NotRevoked]:
        """Revoke certificates; yield each one that is revoked now, and each target that can't be.

        A target that is only being issued is asked for again. Everything may be asked again: what is revoked
        stays as it is.

        Args:
            targets: any number of them.
            reason: why.

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
            url: as certificates state it.
            shard: from 0.
            authorities: that of CA certificates.
            ca: which CA's, as in the daemon's configuration; "" for that of [ca].

        Raises:
            OtahsmError: there is none, or the daemon can't be reached.
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
            response.this_update_time.ToDatetime(tzinfo=UTC),
            response.next_update_time.ToDatetime(tzinfo=UTC),
            response.revoked_count,
        )

    async def _revoke(self, chunk: list[ToRevoke], reason: Reason) -> list[Revoked | NotRevoked]:
        """Revoke as many as go into a call, for as long as some of them may only be late."""
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
            item.revoke_time.ToDatetime(tzinfo=UTC),
            _REASONS.get(item.reason, Reason.UNSPECIFIED),
            item.already_revoked,
        )
