"""`otahsm.v1.TransparencyService`. Thin: what is proven, and how, is `otahsm.issuance.transparency`'s."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

import structlog

from otahsm.daemon.tls import Context
from otahsm.daemon.wire import abort
from otahsm.errors import LedgerTamperedError, OtahsmError, RequestRefusedError
from otahsm.issuance import Transparency
from otahsm.v1 import transparency_pb2 as pb
from otahsm.v1 import transparency_pb2_grpc

_SERIAL_BYTES: Final = 20
_MAX_SIZE: Final = 2**63 - 1

_Answer = TypeVar("_Answer")
_log = structlog.get_logger()


class TransparencyService(transparency_pb2_grpc.TransparencyServiceServicer):
    """`otahsm.v1.TransparencyService`."""

    def __init__(self, transparency: Transparency) -> None:
        self._transparency = transparency

    async def GetCheckpoint(  # noqa: N802 - the name is the wire's
        self, request: pb.GetCheckpointRequest, context: Context
    ) -> pb.GetCheckpointResponse:
        """Return the last checkpoint, or a new one."""
        make = self._transparency.make_checkpoint if request.make_new else self._transparency.checkpoint
        size, note = await _answered(make(), context)
        return pb.GetCheckpointResponse(checkpoint=note, size=size)

    async def GetInclusionProof(  # noqa: N802
        self, request: pb.GetInclusionProofRequest, context: Context
    ) -> pb.GetInclusionProofResponse:
        """Prove that the log holds a certificate."""
        if not 1 <= len(request.serial_number) <= _SERIAL_BYTES:
            message = f"a serial number has 1 to {_SERIAL_BYTES} octets"
            await abort(context, RequestRefusedError("serial_number", message))
        leaf, proof = await _answered(self._transparency.prove_inclusion(request.serial_number), context)
        return pb.GetInclusionProofResponse(leaf=leaf, proof=proof)

    async def GetConsistencyProof(  # noqa: N802
        self, request: pb.GetConsistencyProofRequest, context: Context
    ) -> pb.GetConsistencyProofResponse:
        """Prove that the log only grew."""
        if request.old_size > _MAX_SIZE:
            await abort(context, RequestRefusedError("old_size", "no log has so many leaves"))
        proof = await _answered(self._transparency.prove_consistency(request.old_size), context)
        return pb.GetConsistencyProofResponse(proof=proof)


async def _answered(work: Awaitable[_Answer], context: Context) -> _Answer:
    """Wait for an answer; end the call with the error if there is none."""
    try:
        return await work
    except OtahsmError as error:
        if isinstance(error, LedgerTamperedError):
            _log.error("transparency.failed", reason=error.reason, message=error.message, hint=error.hint)
        await abort(context, error)
    except Exception:  # noqa: BLE001 - the edge of the process: a fault of ours must not reach the client raw
        _log.exception("transparency.fault")
        await abort(context, OtahsmError("the daemon failed in an unforeseen way; its log says how"))
