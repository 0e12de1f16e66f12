"""Issuing certificates: requests stream in, results stream out.

A bounded number of requests is in flight, in messages of 64. Temporary failures are retried automatically: a
lost connection, an unavailable token, a daemon that restarts. That is safe, because a repeated request always
gets the same certificate.

Every certificate is checked (`otahsm.client.checking`); one that is not what was requested is a refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from otahsm.client.calls import Calls, Service
from otahsm.client.checking import CertificateChecker
from otahsm.client.resumable_stream import Requests, ResumableStream
from otahsm.client.values import Authority, CertificateRequest, Profile, Result
from otahsm.errors import CertificateRejectedError
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import authority_pb2, authority_pb2_grpc, device_pb2, device_pb2_grpc


class IssuanceClient:
    """`Client.issuance`: issues certificates; lists the daemon's CAs and profiles.

    Attributes:
        told_anchors: the trust anchors that the client was given, in DER; empty for those that its daemon
            names when it is first needed.
    """

    def __init__(self, calls: Calls, told_anchors: Sequence[bytes] = ()) -> None:
        self.told_anchors = tuple(told_anchors)
        self._checker = CertificateChecker(told_anchors) if told_anchors else None
        self._finding = asyncio.Lock()
        self._calls = calls
        self._authorities = Service(calls, authority_pb2_grpc.AuthorityServiceStub)
        self._devices = Service(calls, device_pb2_grpc.DeviceServiceStub)

    async def issue(
        self, requests: Requests, *, profile: str = "", trust_anchors: Sequence[bytes] = ()
    ) -> AsyncGenerator[Result, None]:
        """Issue certificates; yield one result for each request, as they become ready.

        Args:
            requests: any number, even infinite; consumed only as fast as results arrive.
            profile: the profile; empty for the daemon's default.
            trust_anchors: the roots that certificates must lead to, in DER; empty for those of the client.

        Raises:
            ConfigError: a trust anchor is not a root certificate.
            OtahsmError: the daemon refuses the whole stream.
        """
        own = CertificateChecker(trust_anchors) if trust_anchors else None

        async def checker() -> CertificateChecker:
            return own or await self._find_checker()

        stream = ResumableStream(self._calls.replicas, requests, profile, self._calls.patience, checker)
        async with contextlib.aclosing(stream.results()) as results:
            async for result in results:
                yield result

    async def issue_one(self, csr: bytes, *, device_id: str = "", profile: str = "") -> Result:
        """Issue one certificate."""
        (result,) = [item async for item in self.issue([CertificateRequest(csr, device_id)], profile=profile)]
        return result

    def check_anchors(self, authority: Authority) -> None:
        """Check that a daemon can issue what this client accepts, before anything is requested.

        Raises:
            CertificateRejectedError: none of its roots is one that the client was told.
        """
        if self.told_anchors and not CertificateChecker(self.told_anchors).accepts(authority.anchors):
            raise _unexpected(authority)

    def check_authority(self, authority: Authority) -> None:
        """Check that a CA is what the client accepts, before its CRLs are used.

        Raises:
            CertificateRejectedError: no root that the client was told is above it.
        """
        if self.told_anchors and not CertificateChecker(self.told_anchors).trusts(authority):
            raise _unexpected(authority)

    async def _find_checker(self) -> CertificateChecker:
        async with self._finding:  # what was named first stays
            if self._checker is None:
                self._checker = CertificateChecker((await self.authority()).anchors)
            return self._checker

    async def authority(self, name: str = "") -> Authority:
        """Return a CA that signs device certificates.

        Args:
            name: its name, as in the daemon's configuration; "" for the CA of profiles that don't name one.

        Raises:
            NotFoundError: it does not exist.
            OtahsmError: the daemon can't be reached.
        """
        request = authority_pb2.GetAuthorityRequest(name=name)
        response = await self._authorities.call(lambda stub: stub.GetAuthority, request)
        return Authority.from_message(response.authority)

    async def profiles(self) -> list[Profile]:
        """Return all profiles.

        Raises:
            OtahsmError: the daemon can't be reached.
        """
        request = authority_pb2.ListProfilesRequest()
        response = await self._authorities.call(lambda stub: stub.ListProfiles, request)
        return [Profile.from_message(message) for message in response.profiles]

    async def reset_device(self, device_id: str, *, profile: str = "") -> SerialNumber:
        """Allow a device to get a new certificate for another key at once.

        Returns:
            The serial number of its current certificate, which stays valid until it expires or is revoked.

        Raises:
            NotFoundError: it has none.
            OtahsmError: the daemon can't be reached.
        """
        request = device_pb2.ResetDeviceRequest(device_id=device_id, profile=profile)
        response = await self._devices.call(lambda stub: stub.ResetDevice, request)
        return SerialNumber.from_key(response.serial_number)


def _unexpected(authority: Authority) -> CertificateRejectedError:
    return CertificateRejectedError(
        f"the daemon's fleet root, that of {authority.subject!a}, is not the expected one",
        hint="Check that [client] names the right daemon and, in fleet_ca, the right root.",
    )
