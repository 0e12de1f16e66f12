"""Checkpoints of the mandate's log: each continues the last one."""

from __future__ import annotations

from collections.abc import Sequence

from otahsm.errors import EvidenceError, NotContinuedError, SigningRefusedError
from otahsm.tlog import Checkpoint, verify_consistency
from otahsm.tlog.encoding import decode_number
from otahsm.token.desk.codec import LastCheckpoint


def build(origin: str, parts: Sequence[bytes], last: LastCheckpoint) -> Checkpoint:
    """Return the checkpoint that is to be signed.

    Args:
        origin: the log's.
        parts: as `encode_checkpoint` makes them, without the first two.
        last: the last one that was signed.

    Raises:
        NotContinuedError: it is not proven to continue the last one.
        SigningRefusedError: it is malformed.
    """
    try:
        size, root, *proof = parts
        checkpoint = Checkpoint(origin, decode_number(size.decode()), root)
        if last.size and last != (checkpoint.size, root):
            verify_consistency(last.size, last.root, checkpoint.size, root, proof)
    except EvidenceError as error:
        raise NotContinuedError(
            f"the checkpoint does not continue the last one that was signed here: {error.message}"
        ) from None
    except ValueError:
        raise SigningRefusedError("the checkpoint is malformed") from None
    return checkpoint
