"""Proofs as text files, which anybody can verify offline with the log's verifier key alone.

Inclusion proofs follow c2sp.org/tlog-proof:

    c2sp.org/tlog-proof@v1
    extra <base64>                  (optional)
    index <number>
    <hashes in base64, one per line>

    <checkpoint, a signed note>

Consistency proofs follow c2sp.org/tlog-witness, add-checkpoint: the same, except that `old <size>` is the
only line before the hashes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from otahsm.errors import EvidenceError
from otahsm.tlog.checkpoint import Checkpoint, open_checkpoint
from otahsm.tlog.encoding import decode_base64, decode_hash, decode_number, encode_base64
from otahsm.tlog.merkle import (
    HASH_BYTES,
    MAX_PROOF_HASHES,
    MAX_SIZE,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from otahsm.tlog.note import MAX_NOTE_BYTES, VerifierKey

INCLUSION_HEADER: Final = "c2sp.org/tlog-proof@v1"

MAX_EXTRA_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Proves that a log contains a leaf.

    Args:
        index: the index of the leaf, from 0.
        hashes: the inclusion proof (RFC 9162, section 2.1.3.1), from the leaf's sibling up.
        checkpoint: a signed checkpoint of a tree that contains the leaf.
        extra: additional data, which is not signed.

    Raises:
        EvidenceError: a value is invalid.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    def __post_init__(self) -> None:
        _check(self.index, self.hashes, self.checkpoint)
        if len(self.extra) > MAX_EXTRA_BYTES:
            raise EvidenceError(
                f"A proof has {len(self.extra)} octets of extra data; {MAX_EXTRA_BYTES} is the limit."
            )

    def encode(self) -> bytes:
        """Encode as a text file; the specification recommends the extension `.tlog-proof`."""
        extra = [f"extra {encode_base64(self.extra)}"] if self.extra else []
        return _join([INCLUSION_HEADER, *extra, f"index {self.index}"], self.hashes, self.checkpoint)

    @classmethod
    def parse(cls, encoded: bytes) -> InclusionProof:
        """Parse without verifying. Raises EvidenceError if it is not exactly in the format of `encode`."""
        header, *lines, checkpoint = _split(encoded)
        if header != INCLUSION_HEADER.encode():
            raise EvidenceError(f"The first line of an inclusion proof is not {INCLUSION_HEADER}.")
        extra = b""
        if lines and lines[0].startswith(b"extra "):
            extra = decode_base64(_value(lines.pop(0), "extra"))
            if not extra:
                raise EvidenceError("A proof has an empty extra line.")
        index, hashes = _number_and_hashes(lines, "index")
        return cls(index, hashes, checkpoint, extra)

    def verify(self, leaf: bytes, *keys: VerifierKey) -> Checkpoint:
        """Verify signature and inclusion.

        Args:
            leaf: the expected content of the leaf, not its hash.
            keys: the log's keys.

        Returns:
            The checkpoint. Its consistency with one from another source should be checked.

        Raises:
            EvidenceError: it is not proven that the log contains the leaf.
        """
        checkpoint = open_checkpoint(self.checkpoint, *keys)
        verify_inclusion(leaf_hash(leaf), self.index, checkpoint.size, self.hashes, checkpoint.root)
        return checkpoint


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """Proves that a log only grew since an older checkpoint.

    Args:
        old_size: the tree size of the older checkpoint.
        hashes: the consistency proof (RFC 9162, section 2.1.4.1).
        checkpoint: the newer checkpoint, signed.

    Raises:
        EvidenceError: a value is invalid.
    """

    old_size: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def __post_init__(self) -> None:
        _check(self.old_size, self.hashes, self.checkpoint)

    def encode(self) -> bytes:
        """Encode as the body of a witness's add-checkpoint request."""
        return _join([f"old {self.old_size}"], self.hashes, self.checkpoint)

    @classmethod
    def parse(cls, encoded: bytes) -> ConsistencyProof:
        """Parse without verifying. Raises EvidenceError if it is not exactly in the format of `encode`."""
        *lines, checkpoint = _split(encoded)
        old_size, hashes = _number_and_hashes(lines, "old")
        return cls(old_size, hashes, checkpoint)

    def verify(self, old: Checkpoint, *keys: VerifierKey) -> Checkpoint:
        """Verify signature and consistency.

        Args:
            old: the older checkpoint, already verified by `open_checkpoint`.
            keys: the log's keys.

        Returns:
            The newer checkpoint.

        Raises:
            EvidenceError: it is not proven that the log only grew.
        """
        new = open_checkpoint(self.checkpoint, *keys)
        if new.origin != old.origin:
            raise EvidenceError("The two checkpoints are from different logs.")
        if self.old_size != old.size:
            raise EvidenceError(
                f"The proof starts at {self.old_size} leaves, but the older checkpoint has {old.size}."
            )
        verify_consistency(old.size, old.root, new.size, new.root, self.hashes)
        return new


def _check(number: int, hashes: tuple[bytes, ...], checkpoint: bytes) -> None:
    if not 0 <= number <= MAX_SIZE:
        raise EvidenceError(f"A proof has the invalid index or size {number}.")
    if len(hashes) > MAX_PROOF_HASHES or any(len(each) != HASH_BYTES for each in hashes):
        raise EvidenceError(
            f"A proof has more than {MAX_PROOF_HASHES} hashes, or one that is not {HASH_BYTES} octets."
        )
    if len(checkpoint) > MAX_NOTE_BYTES:
        raise EvidenceError(f"The checkpoint of a proof has more than {MAX_NOTE_BYTES} octets.")


def _join(lines: list[str], hashes: Iterable[bytes], checkpoint: bytes) -> bytes:
    return "\n".join([*lines, *map(encode_base64, hashes), "", ""]).encode() + checkpoint


def _split(encoded: bytes) -> list[bytes]:
    """Return the lines before the first empty line, and then the checkpoint."""
    head, empty_line, checkpoint = encoded.partition(b"\n\n")
    if not empty_line:
        raise EvidenceError("A proof has no checkpoint.")
    return [*head.split(b"\n"), checkpoint]


def _number_and_hashes(lines: list[bytes], keyword: str) -> tuple[int, tuple[bytes, ...]]:
    if not lines:
        raise EvidenceError(f"A proof has no line for {keyword}.")
    number = decode_number(_value(lines[0], keyword))
    return number, tuple(decode_hash(_ascii(line)) for line in lines[1:])


def _value(line: bytes, keyword: str) -> str:
    name, _, value = _ascii(line).partition(" ")
    if name != keyword:
        raise EvidenceError(f"A proof has no line for {keyword} where it should be.")
    return value


def _ascii(line: bytes) -> str:
    try:
        return line.decode("ascii")
    except UnicodeDecodeError:
        raise EvidenceError("A proof has a line that is not ASCII.") from None
