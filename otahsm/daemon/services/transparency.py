"""`otahsm.v1.TransparencyService`."""

from __future__ import annotations

from typing import Final

from otahsm.daemon.edge import Context, caller_of
from otahsm.daemon.services.service import Service
from otahsm.errors import RequestRefusedError
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import transparency_pb2 as pb
from otahsm.v1 import transparency_pb2_grpc

_MAX_SIZE: Final = 2**63 - 1


class TransparencyService(Service, transparency_pb2_grpc.TransparencyServiceServicer):
    """`otahsm.v1.TransparencyService`."""

    async def GetCheckpoint(  # noqa: N802 - the name is the wire's
        self, request: pb.GetCheckpointRequest, context: Context
    ) -> pb.GetCheckpointResponse:
        """Return the latest checkpoint, or a new one."""
        size, note = await self._authority.get_checkpoint(make_new=request.make_new)
        return pb.GetCheckpointResponse(checkpoint=note, size=size)

    async def GetInclusionProof(  # noqa: N802
        self, request: pb.GetInclusionProofRequest, context: Context
    ) -> pb.GetInclusionProofResponse:
        """Prove that the log contains a certificate."""
        serial = SerialNumber.from_octets(request.serial_number)
        leaf, proof = await self._authority.prove_inclusion(caller_of(context), serial)
        return pb.GetInclusionProofResponse(leaf=leaf, proof=proof)

    async def GetConsistencyProof(  # noqa: N802
        self, request: pb.GetConsistencyProofRequest, context: Context
    ) -> pb.GetConsistencyProofResponse:
        """Prove that the log only grew."""
        if request.old_size > _MAX_SIZE:
            raise RequestRefusedError("old_size", "old_size is too large")
        proof = await self._authority.prove_consistency(request.old_size)
        return pb.GetConsistencyProofResponse(proof=proof)
