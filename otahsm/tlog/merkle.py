"""The Merkle tree of RFC 9162, section 2.1, over SHA-256: roots, growth, proofs, and their verification.

A node has a level, 0 for leaves, and an index in its level: the node (level, index) is the root of the
complete subtree over 2**level leaves, from index * 2**level on. Only complete subtrees are nodes here, so a
node never changes. The root of a tree of any size is computed from O(log n) nodes, one for each bit set in
its size.

Hashes are always 32 octets. Invalid arguments raise ValueError; invalid evidence raises EvidenceError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias

from otahsm.errors import EvidenceError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256().digest()
MAX_SIZE: Final = 2**63 - 1  # leaves: the range of a signed 64-bit integer, in SQL and in other verifiers
MAX_PROOF_HASHES: Final = 63  # the longest path in a tree of MAX_SIZE

Fetch: TypeAlias = Callable[[int, int], bytes]
"""Returns the hash of the node (level, index)."""


class Row(NamedTuple):
    """Adjacent nodes of one level: hashes[i] is the node (level, first + i)."""

    level: int
    first: int
    hashes: Sequence[bytes]


def leaf_hash(leaf: bytes) -> bytes:
    """Hash the content of a leaf (RFC 9162, section 2.1.1)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children into their parent (RFC 9162, section 2.1.1)."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class CompactTree:
    """The state of a tree that is needed to append to it: O(log n) hashes.

    It is immutable: appending returns a new one, so that a failed transaction leaves the old one unchanged.

    Args:
        size: the number of leaves.
        peaks: the hashes of the largest complete subtrees, from the left: one for each bit set in size.

    Raises:
        ValueError: the number of peaks doesn't match the size.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise ValueError(f"a tree has 0 to {MAX_SIZE} leaves, not {self.size}")
        if len(self.peaks) != self.size.bit_count():
            raise ValueError(f"a tree of {self.size} leaves does not have {len(self.peaks)} peaks")
        _check_lengths(self.peaks)

    @property
    def root(self) -> bytes:
        """The Merkle tree hash (RFC 9162, section 2.1.1)."""
        return _fold(self.peaks) if self.peaks else EMPTY_ROOT

    def extend(self, leaf_hashes: Iterable[bytes]) -> tuple[CompactTree, list[Row]]:
        """Append leaves.

        Returns:
            The larger tree, and all new nodes: one row for each level, leaves first.

        Raises:
            ValueError: a hash is not 32 octets, or the tree would get larger than MAX_SIZE.
        """
        hashes = list(leaf_hashes)
        _check_lengths(hashes)
        size, level, first = self.size + len(hashes), 0, self.size
        peaks, alone, rows = list(self.peaks), [], []
        while hashes:
            rows.append(Row(level, first, hashes))
            if first & 1:  # the first is a right child, and its sibling the smallest peak
                hashes, first = [peaks.pop(), *hashes], first - 1
            if len(hashes) & 1:
                alone.append(hashes[-1])
            lefts, rights = hashes[::2], hashes[1::2]
            # `node_hash` inlined: its calls would take a fifth of the time.
            hashes = [
                sha256(b"\x01" + left + right).digest() for left, right in zip(lefts, rights, strict=False)
            ]
            level, first = level + 1, first >> 1
        return CompactTree(size, (*peaks, *reversed(alone))), rows

    @classmethod
    def of(cls, size: int, peaks: bytes) -> CompactTree:
        """Return the tree whose size and concatenated peaks were stored. Raises ValueError."""
        return cls(size, tuple(peaks[at : at + HASH_BYTES] for at in range(0, len(peaks), HASH_BYTES)))


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    """Compute the root of leaves (RFC 9162, section 2.1.1); for 2**level leaves, it is a node of that level.

    Raises:
        ValueError: a hash is not 32 octets.
    """
    tree, _ = CompactTree().extend(leaf_hashes)
    return tree.root


def inclusion_proof(index: int, size: int, fetch: Fetch) -> list[bytes]:
    """Make the proof that the tree of the first `size` leaves contains a leaf (RFC 9162, section 2.1.3.1).

    Args:
        index: the index of the leaf, from 0.
        size: a size that the tree has or had.
        fetch: called for at most 2 * log2(size) nodes, which are complete at that size.

    Returns:
        The hashes from the leaf's sibling up to the root's child.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    path, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(_subtree(middle, end, fetch))
            end = middle
        else:
            path.append(_subtree(begin, middle, fetch))
            begin = middle
    return path[::-1]


def consistency_proof(old_size: int, new_size: int, fetch: Fetch) -> list[bytes]:
    """Make the proof that a tree only grew between two sizes (RFC 9162, section 2.1.4.1).

    It is empty if there is nothing to prove: from a tree to itself, and from the empty tree.

    Args:
        old_size: the smaller size.
        new_size: the larger one.
        fetch: called for O(log n) nodes, which are complete at the larger size.

    Raises:
        ValueError: the sizes are not in order.
    """
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise ValueError(f"a tree does not grow from {old_size} to {new_size} leaves")
    if old_size in (0, new_size):
        return []
    path, begin, end = [], 0, new_size
    while end != old_size:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            path.append(_subtree(middle, end, fetch))
            end = middle
        else:
            path.append(_subtree(begin, middle, fetch))
            begin = middle
    if begin:  # otherwise the old root is itself the next hash, and the verifier has it
        path.append(_subtree(begin, end, fetch))
    return path[::-1]


def verify_inclusion(hashed_leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that a leaf is in the tree with this size and root (RFC 9162, section 2.1.3.2).

    Args:
        hashed_leaf: `leaf_hash` of what the leaf holds. Never take it from the author of the proof.
        index: the leaf's, from 0.
        size: the number of leaves, from a checkpoint.
        proof: the hashes from the leaf's sibling up to the root's child.
        root: from the same checkpoint.

    Raises:
        EvidenceError: it is not proven.
    """
    _check_evidence(hashed_leaf, root, *proof)
    if not 0 <= index < size <= MAX_SIZE:
        raise EvidenceError(f"A tree of {size} leaves has no leaf {index}.")
    reached = hashed_leaf
    for sibling, is_left in _climb(index, size - 1, proof):
        reached = node_hash(sibling, reached) if is_left else node_hash(reached, sibling)
    if reached != root:
        raise EvidenceError("The inclusion proof leads to another root: the tree has another leaf there.")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Verify that the new tree starts with all leaves of the old one (RFC 9162, section 2.1.4.2).

    The RFC starts at size 1. Here every tree is also consistent with the empty one and with itself, with an
    empty proof, as in c2sp.org/tlog-witness.

    Args:
        old_size: the number of leaves, from a checkpoint that was verified before.
        old_root: the root hash, from the same checkpoint.
        new_size: the number of leaves, from the checkpoint to be verified.
        new_root: the root hash, from the same checkpoint.
        proof: the hashes from `consistency_proof`.

    Raises:
        EvidenceError: it is not proven.
    """
    _check_evidence(old_root, new_root, *proof)
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise EvidenceError(f"The tree went from {old_size} to {new_size} leaves: it must never shrink.")
    if old_size in (0, new_size):
        if proof or old_root != (new_root if old_size else EMPTY_ROOT):
            raise EvidenceError(f"There are two roots for {old_size} leaves, or an unneeded proof.")
        return
    # A complete old tree is itself the first hash.
    path = [old_root, *proof] if old_size.bit_count() == 1 else proof
    if not path:
        raise EvidenceError("The consistency proof is empty.")
    level = (old_size & -old_size).bit_length() - 1  # of the old tree's last peak, where the path starts
    old = new = path[0]
    for sibling, is_left in _climb((old_size - 1) >> level, (new_size - 1) >> level, path[1:]):
        old = node_hash(sibling, old) if is_left else old
        new = node_hash(sibling, new) if is_left else node_hash(new, sibling)
    if (old, new) != (old_root, new_root):
        raise EvidenceError("The consistency proof leads to other roots: the log was rewritten.")


def _climb(index: int, last: int, path: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Walk from a node to the root, where `last` is the index of the last node in its level.

    This is the loop in RFC 9162, sections 2.1.3.2 and 2.1.4.2, which call the two numbers fn and sn.

    Yields:
        Each hash of the path, and whether it is the left sibling of the current node.

    Raises:
        EvidenceError: the path does not end at the root.
    """
    for sibling in path:
        if last == 0:
            raise EvidenceError("The proof is too long.")
        is_left = index & 1 == 1 or index == last
        yield sibling, is_left
        while is_left and index and not index & 1:  # no siblings at these levels, on the right edge
            index, last = index >> 1, last >> 1
        index, last = index >> 1, last >> 1
    if last:
        raise EvidenceError("The proof is too short.")


def _split(leaves: int) -> int:
    """Return the largest power of two that is smaller than `leaves`, the k of RFC 9162, section 2.1.1."""
    return 1 << ((leaves - 1).bit_length() - 1)


def _subtree(begin: int, end: int, fetch: Fetch) -> bytes:
    """Hash the leaves of [begin, end), where begin is a multiple of a power of two that is >= end - begin."""
    peaks = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        peaks.append(fetch(level, begin >> level))
        begin += 1 << level
    return _fold(peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    """Compute the root of a tree from its complete subtrees, given from the left."""
    *others, root = peaks
    for peak in reversed(others):
        root = node_hash(peak, root)
    return root


def _check_lengths(hashes: Iterable[bytes]) -> None:
    if not set(map(len, hashes)) <= {HASH_BYTES}:
        raise ValueError(f"a hash is not {HASH_BYTES} octets")


def _check_evidence(*hashes: bytes) -> None:
    """Check lengths: two hashes of 31 and 33 octets would be taken for two of 32."""
    if not set(map(len, hashes)) <= {HASH_BYTES}:
        raise EvidenceError(f"A hash is not {HASH_BYTES} octets.")
