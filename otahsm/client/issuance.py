"""Issuing certificates: requests stream in, results stream out.

A bounded number of requests is in flight, in messages of 64. Temporary failures are retried automatically: a
lost connection, an unavailable token, a daemon that restarts. That is safe, because a repeated request always
gets the same certificate.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from otahsm.client.calls import Calls, Service
from otahsm.client.resumable_stream import Requests, ResumableStream
from otahsm.client.values import Authority, CertificateRequest, Profile, Result
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import authority_pb2, authority_pb2_grpc, device_pb2, device_pb2_grpc


class IssuanceClient:
    """`Client.issuance`: issues certificates; lists the daemon's CAs and profiles."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._authorities = Service(calls, authority_pb2_grpc.AuthorityServiceStub)
        self._devices = Service(calls, device_pb2_grpc.DeviceServiceStub)

    async def issue(self, requests: Requests, *, profile: str = "") -> AsyncGenerator[Result, None]:
        """Issue certificates; yield one result for each request, as they become ready.

        Args:
            requests: any number, even infinite; consumed only as fast as results arrive.
            profile: the profile; empty for the daemon's default.

        Raises:
            OtahsmError: the daemon refuses the whole stream.
        """
        stream = ResumableStream(self._calls.replicas, requests, profile, self._calls.patience)
        async with contextlib.aclosing(stream.results()) as results:
            async for result in results:
                yield result

    async def issue_one(self, csr: bytes, *, device_id: str = "", profile: str = "") -> Result:
        """Issue one certificate."""
        (result,) = [item async for item in self.issue([CertificateRequest(csr, device_id)], profile=profile)]
        return result

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
