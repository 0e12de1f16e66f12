"""Checkpoints and proofs of a daemon's log. The client believes none of them.

What it returns is to be verified with `otahsm.tlog` and the log's verifier key.
"""

from __future__ import annotations

from otahsm.client.calls import Calls, Service
from otahsm.pki import SerialNumber
from otahsm.v1 import transparency_pb2 as pb
from otahsm.v1 import transparency_pb2_grpc


class TransparencyClient:
    """`Client.transparency`: fetches checkpoints and proofs."""

    def __init__(self, calls: Calls) -> None:
        self._service = Service(calls, transparency_pb2_grpc.TransparencyServiceStub)

    async def checkpoint(self, *, make_new: bool = False) -> bytes:
        """Return the last checkpoint, a signed note; or have one made of all that is recorded by now.

        Raises:
            OtahsmError: the daemon has none, or can't be reached.
        """
        request = pb.GetCheckpointRequest(make_new=make_new)
        return (await self._service.call(lambda stub: stub.GetCheckpoint, request)).checkpoint

    async def prove_inclusion(self, serial: SerialNumber) -> bytes:
        """Return the proof that a certificate is in the log (c2sp.org/tlog-proof); its extra is the leaf.

        Raises:
            NotFoundError: there is no such certificate.
            OtahsmError: the daemon can't prove it, or can't be reached.
        """
        request = pb.GetInclusionProofRequest(serial_number=serial.octets)
        return (await self._service.call(lambda stub: stub.GetInclusionProof, request)).proof

    async def prove_consistency(self, old_size: int) -> bytes:
        """Return the proof that the log only grew since it had so many leaves (c2sp.org/tlog-witness).

        Raises:
            OtahsmError: the daemon can't prove it, or can't be reached.
        """
        request = pb.GetConsistencyProofRequest(old_size=old_size)
        return (await self._service.call(lambda stub: stub.GetConsistencyProof, request)).proof
