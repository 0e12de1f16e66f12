"""`otahsm.v1.RevocationService` and `DeviceService`."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from otahsm.daemon.edge import Context, caller_of, limits
from otahsm.daemon.services.service import Service
from otahsm.daemon.wire.ledger import text_of
from otahsm.daemon.wire.revocation import crl_name_of, revocation_of, write_revocation
from otahsm.errors import RequestRefusedError
from otahsm.v1 import device_pb2, device_pb2_grpc, revocation_pb2_grpc
from otahsm.v1 import revocation_pb2 as pb


class RevocationService(Service, revocation_pb2_grpc.RevocationServiceServicer):
    """`otahsm.v1.RevocationService`."""

    async def RevokeCertificates(  # noqa: N802 - the name is the wire's
        self, request: pb.RevokeCertificatesRequest, context: Context
    ) -> pb.RevokeCertificatesResponse:
        """Revoke certificates; a malformed target fails alone."""
        count = len(request.targets)
        if not 1 <= count <= limits.MAX_REQUESTS:
            raise RequestRefusedError(
                "targets", f"a call must have 1 to {limits.MAX_REQUESTS} targets, not {count}"
            )
        outcomes = await self._authority.revoke(caller_of(context), list(map(revocation_of, request.targets)))
        response = pb.RevokeCertificatesResponse()
        for outcome in outcomes:
            write_revocation(response.results.add(), outcome)
        return response

    async def GetCrl(self, request: pb.GetCrlRequest, context: Context) -> pb.GetCrlResponse:  # noqa: N802
        """Return a CRL."""
        crl = await self._authority.get_crl(crl_name_of(request))
        return pb.GetCrlResponse(
            crl=crl.der,
            number=crl.row.number,
            this_update_time=Timestamp(seconds=crl.row.this_update),
            next_update_time=Timestamp(seconds=crl.row.next_update),
            revoked_count=crl.row.revoked,
        )


class DeviceService(Service, device_pb2_grpc.DeviceServiceServicer):
    """`otahsm.v1.DeviceService`."""

    async def ResetDevice(  # noqa: N802
        self, request: device_pb2.ResetDeviceRequest, context: Context
    ) -> device_pb2.ResetDeviceResponse:
        """Allow a device a certificate for another key."""
        device_id, profile = text_of("device_id", request.device_id), text_of("profile", request.profile)
        serial = await self._authority.reset_device(caller_of(context), device_id, profile)
        return device_pb2.ResetDeviceResponse(serial_number=serial.octets)
