"""Checkpoints of the mandate's log: each continues the last one."""

from __future__ import annotations

from collections.abc import Sequence

from otahsm.errors import EvidenceError, SigningRefusedError
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
        SigningRefusedError: it is malformed, or not proven to continue the last one.
    """
    try:
        size, root, *proof = parts
        checkpoint = Checkpoint(origin, decode_number(size.decode()), root)
        if last.size and last != (checkpoint.size, root):
            verify_consistency(last.size, last.root, checkpoint.size, root, proof)
    except EvidenceError as error:
        raise SigningRefusedError(
            f"the checkpoint does not continue the last one that was signed here: {error.message}",
            hint="The ledger was changed, or an older copy was restored. If that was your decision, see"
            " `otahsm ledger accept`.",
        ) from None
    except ValueError:
        raise SigningRefusedError("the checkpoint is malformed") from None
    return checkpoint
