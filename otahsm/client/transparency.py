"""The client's side of `TransparencyService`: fetches checkpoints and proofs. It believes none of them.

What it returns is to be verified with `otahsm.tlog` and the log's verifier key.
"""

from __future__ import annotations

import grpc

from otahsm.client.asking import DaemonClient
from otahsm.pki import SerialNumber
from otahsm.v1 import transparency_pb2 as pb
from otahsm.v1 import transparency_pb2_grpc


class TransparencyClient(DaemonClient):
    """A client that fetches checkpoints and proofs; see `DaemonClient`."""

    async def checkpoint(self, *, make_new: bool = False) -> bytes:
        """Return the last checkpoint, a signed note; or have one made of all that is recorded by now.

        Raises:
            OtahsmError: the daemon has none, or can't be reached.
        """

        async def ask(channel: grpc.aio.Channel, seconds: float) -> pb.GetCheckpointResponse:
            request = pb.GetCheckpointRequest(make_new=make_new)
            return await _stub(channel).GetCheckpoint(request, timeout=seconds)

        return (await self._ask(ask)).checkpoint

    async def prove_inclusion(self, serial: SerialNumber) -> bytes:
        """Return the proof that a certificate is in the log (c2sp.org/tlog-proof); its extra is the leaf.

        Raises:
            NotFoundError: there is no such certificate.
            OtahsmError: the daemon can't prove it, or can't be reached.
        """

        async def ask(channel: grpc.aio.Channel, seconds: float) -> pb.GetInclusionProofResponse:
            request = pb.GetInclusionProofRequest(serial_number=serial.octets)
            return await _stub(channel).GetInclusionProof(request, timeout=seconds)

        return (await self._ask(ask)).proof

    async def prove_consistency(self, old_size: int) -> bytes:
        """Return the proof that the log only grew since it had so many leaves (c2sp.org/tlog-witness).

        Raises:
            OtahsmError: the daemon can't prove it, or can't be reached.
        """

        async def ask(channel: grpc.aio.Channel, seconds: float) -> pb.GetConsistencyProofResponse:
            request = pb.GetConsistencyProofRequest(old_size=old_size)
            return await _stub(channel).GetConsistencyProof(request, timeout=seconds)

        return (await self._ask(ask)).proof


def _stub(channel: grpc.aio.Channel) -> transparency_pb2_grpc.TransparencyServiceAsyncStub:
    stub: transparency_pb2_grpc.TransparencyServiceAsyncStub = transparency_pb2_grpc.TransparencyServiceStub(
        channel
    )
    return stub
