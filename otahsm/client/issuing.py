"""The issuing client: requests stream in, results stream out.

It keeps a bounded number of requests under way, sends them in messages of 64, and asks again by itself
what the daemon could not answer for a passing reason: a lost connection, a token that is away, a daemon
that restarts. That is safe, because the same request always gets the same certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otahsm.client.asking import DaemonClient
from otahsm.client.resumable_stream import Requests, ResumableStream
from otahsm.client.rpc_errors import from_rpc
from otahsm.client.values import Authority, CertificateRequest, Profile, Result
from otahsm.pki import SerialNumber
from otahsm.v1 import authority_pb2, authority_pb2_grpc, device_pb2, device_pb2_grpc

_PAUSE: Final = 0.1
_HEALTH_SECONDS: Final = 5.0


class IssuingClient(DaemonClient):
    """A client that has certificates issued; see `DaemonClient`."""

    async def issue(self, requests: Requests, *, profile: str = "") -> AsyncGenerator[Result, None]:
        """Have certificates issued; yield one result for each request, as they come.

        Args:
            requests: any number of them, also without end; taken only as fast as results come.
            profile: what to issue under; empty for the daemon's default.

        Raises:
            OtahsmError: the daemon refuses the stream as a whole.
        """
        conversation = ResumableStream(self._replicas, requests, profile, self._patience)
        async with contextlib.aclosing(conversation.results()) as results:
            async for result in results:
                yield result

    async def issue_one(self, csr: bytes, *, device_id: str = "", profile: str = "") -> Result:
        """Have one certificate issued."""
        (result,) = [item async for item in self.issue([CertificateRequest(csr, device_id)], profile=profile)]
        return result

    async def authority(self, name: str = "") -> Authority:
        """Return the CA that signs, trying for as long as the client has patience.

        Args:
            name: which, as in the daemon's configuration; "" for that of profiles that name none.

        Raises:
            OtahsmError: there is none of that name (NOT_FOUND), or the daemon can't be reached.
        """

        async def get(channel: grpc.aio.Channel, seconds: float) -> authority_pb2.GetAuthorityResponse:
            stub: authority_pb2_grpc.AuthorityServiceAsyncStub = authority_pb2_grpc.AuthorityServiceStub(
                channel
            )
            return await stub.GetAuthority(authority_pb2.GetAuthorityRequest(name=name), timeout=seconds)

        return Authority.from_message((await self._ask(get)).authority)

    async def profiles(self) -> list[Profile]:
        """Return what may be issued.

        Raises:
            OtahsmError: the daemon can't be reached.
        """

        async def get(channel: grpc.aio.Channel, seconds: float) -> authority_pb2.ListProfilesResponse:
            stub: authority_pb2_grpc.AuthorityServiceAsyncStub = authority_pb2_grpc.AuthorityServiceStub(
                channel
            )
            return await stub.ListProfiles(authority_pb2.ListProfilesRequest(), timeout=seconds)

        return [Profile.from_message(message) for message in (await self._ask(get)).profiles]

    async def reset_device(self, device_id: str, *, profile: str = "") -> SerialNumber:
        """Let a device have a new certificate, for another key, at once.

        Returns:
            The serial number of the certificate that it has, which stays valid until it ends or is revoked.

        Raises:
            OtahsmError: it has none (NOT_FOUND), or the daemon can't be reached.
        """

        async def reset(channel: grpc.aio.Channel, seconds: float) -> device_pb2.ResetDeviceResponse:
            stub: device_pb2_grpc.DeviceServiceAsyncStub = device_pb2_grpc.DeviceServiceStub(channel)
            request = device_pb2.ResetDeviceRequest(device_id=device_id, profile=profile)
            return await stub.ResetDevice(request, timeout=seconds)

        response = await self._ask(reset)
        return SerialNumber.from_octets(response.serial_number)

    async def wait_until_serving(self, seconds: float) -> bool:
        """Tell whether a daemon can sign now, waiting for that at most so long.

        Raises:
            OtahsmError: the daemon can't be reached, or does not take this client.
        """
        deadline = time.monotonic() + seconds
        while True:
            target, channel = await self._replicas.choose()
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            try:
                response = await check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS)
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return True
                if time.monotonic() >= deadline:
                    return False
            except grpc.aio.AioRpcError as error:
                if time.monotonic() >= deadline:
                    raise from_rpc(error, target) from None
            await asyncio.sleep(_PAUSE)
