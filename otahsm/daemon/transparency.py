"""`otahsm.v1.TransparencyService`. Thin: what is proven, and how, is `otahsm.transparency.log`'s."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Final, TypeVar

import structlog

from otahsm.authority import AccessControl, Caller, Transparency
from otahsm.daemon.edge.tls import Context, caller_of
from otahsm.errors import LedgerTamperedError, NotFoundError, RequestRefusedError
from otahsm.pki import SerialNumber
from otahsm.v1 import transparency_pb2 as pb
from otahsm.v1 import transparency_pb2_grpc

_MAX_SIZE: Final = 2**63 - 1

_Answer = TypeVar("_Answer")
_log = structlog.get_logger()


class TransparencyService(transparency_pb2_grpc.TransparencyServiceServicer):
    """`otahsm.v1.TransparencyService`."""

    def __init__(self, transparency: Transparency, access: AccessControl) -> None:
        self._transparency = transparency
        self._access = access

    async def GetCheckpoint(  # noqa: N802 - the name is the wire's
        self, request: pb.GetCheckpointRequest, context: Context
    ) -> pb.GetCheckpointResponse:
        """Return the last checkpoint, or a new one."""
        make = self._transparency.make_checkpoint if request.make_new else self._transparency.checkpoint
        size, note = await _told(make())
        return pb.GetCheckpointResponse(checkpoint=note, size=size)

    async def GetInclusionProof(  # noqa: N802
        self, request: pb.GetInclusionProofRequest, context: Context
    ) -> pb.GetInclusionProofResponse:
        """Prove that the log holds a certificate."""
        leaf, proof = await _told(self._prove(request.serial_number, caller_of(context)))
        return pb.GetInclusionProofResponse(leaf=leaf, proof=proof)

    async def _prove(self, serial: bytes, caller: Caller) -> tuple[bytes, bytes]:
        """Prove it to who may see it; to others, there is nothing to prove."""
        leaf, proof = await self._transparency.prove_inclusion(SerialNumber.from_octets(serial))
        held = json.loads(leaf)
        certificate = bytes.fromhex(held["client_certificate_sha256"])
        if not self._access.may_see(caller, held["client"], certificate, datetime.now(UTC)):
            raise NotFoundError("the ledger has no certificate with this serial number")
        return leaf, proof

    async def GetConsistencyProof(  # noqa: N802
        self, request: pb.GetConsistencyProofRequest, context: Context
    ) -> pb.GetConsistencyProofResponse:
        """Prove that the log only grew."""
        if request.old_size > _MAX_SIZE:
            raise RequestRefusedError("old_size", "no log has so many leaves")
        proof = await _told(self._transparency.prove_consistency(request.old_size))
        return pb.GetConsistencyProofResponse(proof=proof)


async def _told(work: Awaitable[_Answer]) -> _Answer:
    """Log that the ledger was changed behind our back, whoever it was that found out."""
    try:
        return await work
    except LedgerTamperedError as error:
        _log.error("transparency.failed", reason=error.reason, message=error.message, hint=error.hint)
        raise
