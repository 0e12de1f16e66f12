"""Checkpoints as specified in c2sp.org/tlog-checkpoint: the text that a log signs about its tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from otahsm.errors import EvidenceError
from otahsm.tlog.encoding import decode_hash, decode_number, encode_base64
from otahsm.tlog.merkle import EMPTY_ROOT, HASH_BYTES, MAX_SIZE
from otahsm.tlog.note import VerifierKey, open_note, text_to_sign

_FIXED_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log's tree at one size.

    Args:
        origin: identifies the log. In otahsm, it is also the name of the key.
        size: the number of leaves.
        root: the root hash at that size, 32 octets.
        extensions: further lines. The specification advises against any.

    Raises:
        EvidenceError: a value is invalid.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lines = (self.origin, *self.extensions)
        if not all(lines) or any("\n" in line for line in lines):
            raise EvidenceError("A line of a checkpoint is empty, or contains a newline.")
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_BYTES:
            raise EvidenceError("The tree size or the root hash of a checkpoint is invalid.")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise EvidenceError("A checkpoint has a wrong root hash for the empty tree (RFC 9162).")
        self.encode()  # refuses what can't be in a note

    def encode(self) -> bytes:
        """Encode as the text of a note. These octets are signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return text_to_sign("\n".join(lines) + "\n")

    @classmethod
    def parse(cls, text: bytes) -> Checkpoint:
        """Parse the text of a note, without verifying it.

        Raises:
            EvidenceError: it is not exactly in the format of `encode`.
        """
        try:
            *lines, rest = text.decode().split("\n")
        except UnicodeDecodeError:
            raise EvidenceError("A checkpoint is not UTF-8.") from None
        if rest or len(lines) < _FIXED_LINES:
            raise EvidenceError("A checkpoint is truncated.")
        origin, size, root, *extensions = lines
        return cls(origin, decode_number(size), decode_hash(root), tuple(extensions))


def open_checkpoint(note: bytes, *keys: VerifierKey) -> Checkpoint:
    """Verify a signed checkpoint with the log's keys: usually one, more after a key change.

    The origin must be the name of a key that signed it. So a checkpoint of one log is never accepted for
    another, even if a verifier trusts the keys of both.

    Raises:
        EvidenceError: it is not signed by one of the keys, not a checkpoint, or from another log.
    """
    text, signers = open_note(note, *keys)
    checkpoint = Checkpoint.parse(text)
    if all(signer.name != checkpoint.origin for signer in signers):
        raise EvidenceError("The checkpoint is not about the log of the key that signed it.")
    return checkpoint
