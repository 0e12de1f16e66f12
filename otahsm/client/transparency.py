"""Checkpoints and proofs of a daemon's log. The client does not verify them.

The caller must verify them with `otahsm.tlog` and the log's verifier key.
"""

from __future__ import annotations

from otahsm.client.calls import Calls, Service
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import transparency_pb2 as pb
from otahsm.v1 import transparency_pb2_grpc


class TransparencyClient:
    """`Client.transparency`: fetches checkpoints and proofs."""

    def __init__(self, calls: Calls) -> None:
        self._service = Service(calls, transparency_pb2_grpc.TransparencyServiceStub)

    async def checkpoint(self, *, make_new: bool = False) -> bytes:
        """Return the latest checkpoint, a signed note; or make one of everything recorded so far.

        Raises:
            OtahsmError: the daemon has none, or can't be reached.
        """
        request = pb.GetCheckpointRequest(make_new=make_new)
        return (await self._service.call(lambda stub: stub.GetCheckpoint, request)).checkpoint

    async def prove_inclusion(self, serial: SerialNumber) -> bytes:
        """Return an inclusion proof for a certificate (c2sp.org/tlog-proof); its extra data is the leaf.

        Raises:
            NotFoundError: there is no such certificate.
            OtahsmError: the daemon can't prove it, or can't be reached.
        """
        request = pb.GetInclusionProofRequest(serial_number=serial.octets)
        return (await self._service.call(lambda stub: stub.GetInclusionProof, request)).proof

    async def prove_consistency(self, old_size: int) -> bytes:
        """Return a consistency proof since the log had `old_size` leaves (c2sp.org/tlog-witness).

        Raises:
            OtahsmError: the daemon can't prove it, or can't be reached.
        """
        request = pb.GetConsistencyProofRequest(old_size=old_size)
        return (await self._service.call(lambda stub: stub.GetConsistencyProof, request)).proof
