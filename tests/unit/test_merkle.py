"""Trees and proofs are those of RFC 9162, whose recursive definitions are written out here."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.errors import EvidenceError
from otahsm.tlog import (
    EMPTY_ROOT,
    MAX_SIZE,
    CompactTree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

from support.examples import examples
from support.merkle_vectors import CONSISTENCY, INCLUSION, LEAVES, ROOTS
from support.transparency import Log

SOME_HASH = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")
ALL_SIZES = range(1, 36)

sizes = st.integers(1, 150)


def mth(d: Sequence[bytes]) -> bytes:
    """MTH(D_n) of RFC 9162, section 2.1.1, over leaf contents."""
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = split(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D_n) of section 2.1.3.1."""
    if len(d) == 1:
        return []
    k = split(len(d))
    if m < k:
        return [*path(m, d[:k]), mth(d[k:])]
    return [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], *, b: bool) -> list[bytes]:
    """SUBPROOF(m, D_n, b) of section 2.1.4.1."""
    if m == len(d):
        return [] if b else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], b=b), mth(d[k:])]
    return [*subproof(m - k, d[k:], b=False), mth(d[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def contents(count: int) -> list[bytes]:
    return [b"certificate %d" % number for number in range(count)]


def log_of(leaves: Sequence[bytes]) -> Log:
    log = Log()
    log.append(leaves)
    return log


def flipped(octets: bytes) -> list[bytes]:
    """All values that differ in one bit."""
    number = int.from_bytes(octets, "big")
    return [(number ^ 1 << bit).to_bytes(len(octets), "big") for bit in range(len(octets) * 8)]


def changed(hashes: Sequence[bytes], others: Sequence[bytes]) -> list[list[bytes]]:
    """A proof with one bit flipped, one hash less, one more, or two exchanged."""
    proofs = [
        [*hashes[:at], other, *hashes[at + 1 :]] for at in range(len(hashes)) for other in flipped(hashes[at])
    ]
    proofs += [[*hashes[:at], *hashes[at + 1 :]] for at in range(len(hashes))]
    proofs += [[*hashes[:at], other, *hashes[at:]] for at in range(len(hashes) + 1) for other in others]
    if len(hashes) > 1:
        proofs.append(list(reversed(hashes)))
    return proofs


def test_hashes_are_the_published_ones() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    node = "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    assert node_hash(b"N123", b"N456").hex() == node


def test_roots_are_the_published_ones() -> None:
    log = log_of(LEAVES)
    assert [tree.root.hex() for tree in log.trees] == [EMPTY_ROOT.hex(), *ROOTS]
    assert [root_of(map(leaf_hash, LEAVES[:size])).hex() for size in range(1, 9)] == list(ROOTS)
    assert root_of([]) == EMPTY_ROOT


@pytest.mark.parametrize(("index", "size", "hashes"), INCLUSION)
def test_published_inclusion_proofs_are_made_and_verified(
    index: int, size: int, hashes: tuple[str, ...]
) -> None:
    proof, root = list(map(bytes.fromhex, hashes)), bytes.fromhex(ROOTS[size - 1])
    leaf = leaf_hash(LEAVES[index])
    assert inclusion_proof(index, size, log_of(LEAVES).fetch) == proof
    verify_inclusion(leaf, index, size, proof, root)
    for wrong in changed(proof, [root, leaf, SOME_HASH, b""]):
        with pytest.raises(EvidenceError):
            verify_inclusion(leaf, index, size, wrong, root)
    for place in (
        (index - 1, size),
        (index + 1, size),
        (index ^ 2, size),
        (index, size * 2),
        (index, size // 2),
    ):
        with pytest.raises(EvidenceError):
            verify_inclusion(leaf, *place, proof, root)
    for wrong_leaf, wrong_root in ((b"WrongLeaf", root), (leaf, EMPTY_ROOT), (leaf, SOME_HASH), (b"", b"")):
        with pytest.raises(EvidenceError):
            verify_inclusion(wrong_leaf, index, size, proof, wrong_root)


@pytest.mark.parametrize(("old", "new", "hashes"), CONSISTENCY)
def test_published_consistency_proofs_are_made_and_verified(
    old: int, new: int, hashes: tuple[str, ...]
) -> None:
    proof = list(map(bytes.fromhex, hashes))
    old_root, new_root = bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1])
    assert consistency_proof(old, new, log_of(LEAVES).fetch) == proof
    verify_consistency(old, old_root, new, new_root, proof)
    for wrong in changed(proof, [old_root, new_root, SOME_HASH, b""]):
        with pytest.raises(EvidenceError):
            verify_consistency(old, old_root, new, new_root, wrong)
    for pair in ((old - 1, new), (old + 1, new), (old ^ 2, new), (old, new * 2), (old, new // 2)):
        with pytest.raises(EvidenceError):
            verify_consistency(pair[0], old_root, pair[1], new_root, proof)
    for roots in ((b"WrongRoot", new_root), (old_root, b"WrongRoot"), (SOME_HASH, new_root)):
        with pytest.raises(EvidenceError):
            verify_consistency(old, roots[0], new, roots[1], proof)


@pytest.mark.parametrize("size", ALL_SIZES)
def test_every_inclusion_proof_of_a_small_tree_is_the_rfcs(size: int) -> None:
    leaves = contents(size)
    log = log_of(leaves)
    for index in range(size):
        proof = inclusion_proof(index, size, log.fetch)
        assert proof == path(index, leaves)
        for other in range(size):
            if other == index:
                verify_inclusion(leaf_hash(leaves[index]), index, size, proof, mth(leaves))
            else:
                with pytest.raises(EvidenceError):
                    verify_inclusion(leaf_hash(leaves[index]), other, size, proof, mth(leaves))


@pytest.mark.parametrize("size", ALL_SIZES)
def test_every_consistency_proof_of_a_small_tree_is_the_rfcs(size: int) -> None:
    leaves = contents(size)
    log, rewritten = log_of(leaves), [b"another", *leaves[1:]]
    for old in ALL_SIZES[:size]:
        proof = consistency_proof(old, size, log.fetch)
        assert proof == subproof(old, leaves, b=True)
        verify_consistency(old, mth(leaves[:old]), size, mth(leaves), proof)
        for before, after in ((leaves, rewritten), (rewritten, leaves)):
            with pytest.raises(EvidenceError):
                verify_consistency(old, mth(before[:old]), size, mth(after), proof)


@settings(deadline=None)
@given(sizes, st.data())
def test_proofs_between_any_sizes_are_the_rfcs(size: int, data: st.DataObject) -> None:
    leaves = contents(size)
    log = log_of(leaves)
    new = data.draw(st.integers(1, size))
    old, index = data.draw(st.integers(1, new)), data.draw(st.integers(0, new - 1))
    assert log.trees[new].root == root_of(map(leaf_hash, leaves[:new])) == mth(leaves[:new])
    inclusion, consistency = inclusion_proof(index, new, log.fetch), consistency_proof(old, new, log.fetch)
    assert inclusion == path(index, leaves[:new])
    assert consistency == subproof(old, leaves[:new], b=True)
    verify_inclusion(leaf_hash(leaves[index]), index, new, inclusion, mth(leaves[:new]))
    verify_consistency(old, mth(leaves[:old]), new, mth(leaves[:new]), consistency)


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(2, 60), st.data())
def test_no_change_to_a_proof_is_overlooked(size: int, data: st.DataObject) -> None:
    leaves = contents(size)
    log, root = log_of(leaves), mth(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    leaf, old_root = leaf_hash(leaves[index]), mth(leaves[:old])
    inclusion, consistency = inclusion_proof(index, size, log.fetch), consistency_proof(old, size, log.fetch)
    others = [leaf, root, old_root, SOME_HASH]
    for wrong_leaf, wrong_path, wrong_root in (
        *((leaf, proof, root) for proof in changed(inclusion, others)),
        *((wrong, inclusion, root) for wrong in flipped(leaf)),
        *((leaf, inclusion, wrong) for wrong in flipped(root)),
    ):
        with pytest.raises(EvidenceError):
            verify_inclusion(wrong_leaf, index, size, wrong_path, wrong_root)
    for wrong_old, wrong_new, wrong_path in (
        *((old_root, root, proof) for proof in changed(consistency, others)),
        *((wrong, root, consistency) for wrong in flipped(old_root)),
        *((old_root, wrong, consistency) for wrong in flipped(root)),
    ):
        with pytest.raises(EvidenceError):
            verify_consistency(old, wrong_old, size, wrong_new, wrong_path)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_tree_that_is_stored_between_batches_is_the_same_tree(batches: list[int]) -> None:
    leaves = contents(sum(batches))
    size, peaks, nodes, at = 0, b"", [], 0
    for batch in batches:
        hashes = list(map(leaf_hash, leaves[at : at + batch]))
        tree, rows = CompactTree.of(size, peaks).extend(iter(hashes))
        size, peaks, at = tree.size, b"".join(tree.peaks), at + batch
        nodes += [
            (row.level, row.first + offset, each) for row in rows for offset, each in enumerate(row.hashes)
        ]
    assert CompactTree.of(size, peaks) == CompactTree().extend(map(leaf_hash, leaves))[0]
    assert CompactTree.of(size, peaks).root == mth(leaves)
    # Each complete subtree comes once, when its last leaf is there.
    complete = {
        (level, index): mth(leaves[index << level : (index + 1) << level])
        for level in range(len(leaves).bit_length())
        for index in range(len(leaves) >> level)
    }
    assert len(nodes) == len(complete)
    assert {(level, index): hashed for level, index, hashed in nodes} == complete


def test_appending_leaves_the_smaller_tree_as_it_was() -> None:
    tree, _ = CompactTree().extend(map(leaf_hash, contents(5)))
    before = tree.root
    tree.extend(map(leaf_hash, contents(3)))
    assert tree.root == before == mth(contents(5))


def test_a_tree_needs_one_hash_for_each_bit_of_its_size() -> None:
    tree, _ = CompactTree().extend([SOME_HASH] * 1000)
    assert len(tree.peaks) == (1000).bit_count()


@pytest.mark.parametrize("size", [10**15 + 7, 2**62, 2**62 - 1, MAX_SIZE])
def test_trees_may_have_up_to_the_limit_of_leaves(size: int) -> None:
    # All leaves are the same, and so are all nodes of a level.
    levels = [leaf_hash(b"same")]
    for _ in range(63):
        levels.append(node_hash(levels[-1], levels[-1]))
    bits = range(62, -1, -1)
    asked: list[tuple[int, int]] = []

    def tree_of(leaves: int) -> CompactTree:
        return CompactTree(leaves, tuple(levels[bit] for bit in bits if leaves >> bit & 1))

    def fetch(level: int, index: int) -> bytes:
        assert (index + 1) << level <= size, "asked for a subtree that is not complete"
        asked.append((level, index))
        return levels[level]

    for index in (0, 1, size // 3, size - 2, size - 1):
        asked.clear()
        proof = inclusion_proof(index, size, fetch)
        assert len(set(asked)) == len(asked) <= 2 * 63
        verify_inclusion(levels[0], index, size, proof, tree_of(size).root)
    for old in (1, size // 3, size // 2 + 1, size - 1, size):
        asked.clear()
        proof = consistency_proof(old, size, fetch)
        assert len(set(asked)) == len(asked) <= 2 * 63
        verify_consistency(old, tree_of(old).root, size, tree_of(size).root, proof)


def test_no_tree_grows_past_the_limit() -> None:
    full = CompactTree(MAX_SIZE, (SOME_HASH,) * 63)
    with pytest.raises(ValueError, match="leaves"):
        full.extend([SOME_HASH])


@pytest.mark.parametrize(
    ("size", "peaks"),
    [(0, 1), (1, 0), (1, 31), (1, 33), (3, 32), (0, 32), (-1, 0), (-1, 32), (2**64 - 1, 32 * 64)],
)
def test_what_is_no_stored_tree_is_refused(size: int, peaks: int) -> None:
    with pytest.raises(ValueError, match=r"tree|hash"):
        CompactTree.of(size, bytes(peaks))


@pytest.mark.parametrize("hashes", [[b""], [bytes(31)], [bytes(32), bytes(33)], [b"a certificate"]])
def test_only_hashes_can_be_appended(hashes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 octets"):
        CompactTree().extend(hashes)


def test_there_are_no_proofs_of_what_is_not_there() -> None:
    log = log_of(contents(5))
    for index, size in ((5, 5), (-1, 5), (0, 0), (0, -1), (0, MAX_SIZE + 1)):
        with pytest.raises(ValueError, match="leaves"):
            inclusion_proof(index, size, log.fetch)
    for old, new in ((5, 4), (-1, 4), (0, MAX_SIZE + 1)):
        with pytest.raises(ValueError, match="leaves"):
            consistency_proof(old, new, log.fetch)


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (0, 0), (1, 1), (2, 1), (0, -1), (0, MAX_SIZE + 1)])
def test_a_leaf_outside_the_tree_is_never_proven(index: int, size: int) -> None:
    with pytest.raises(EvidenceError):
        verify_inclusion(SOME_HASH, index, size, [], SOME_HASH)


def test_every_tree_follows_from_the_empty_one_and_from_itself() -> None:
    log = log_of(contents(3))
    root = log.tree.root
    for old, new in ((0, 0), (0, 3), (3, 3)):
        assert consistency_proof(old, new, log.fetch) == []
        verify_consistency(old, log.trees[old].root, new, log.trees[new].root, [])
        with pytest.raises(EvidenceError):
            verify_consistency(old, log.trees[old].root, new, log.trees[new].root, [root])
        with pytest.raises(EvidenceError):
            verify_consistency(old, SOME_HASH, new, log.trees[new].root, [])


@pytest.mark.parametrize(("old", "new"), [(1, 0), (3, 2), (-1, 2), (-1, -1), (1, MAX_SIZE + 1)])
def test_a_tree_that_shrinks_is_refused(old: int, new: int) -> None:
    with pytest.raises(EvidenceError):
        verify_consistency(old, SOME_HASH, new, SOME_HASH, [])


def test_an_empty_proof_of_growth_is_refused() -> None:
    for old in (1, 2, 3):
        with pytest.raises(EvidenceError):
            verify_consistency(old, SOME_HASH, 4, SOME_HASH, [])


def test_octets_moved_from_one_hash_to_the_next_are_refused() -> None:
    # Their concatenation, which is what gets hashed, would be the same.
    leaves = contents(2)
    left, right = map(leaf_hash, leaves)
    verify_inclusion(left, 0, 2, [right], mth(leaves))
    with pytest.raises(EvidenceError):
        verify_inclusion(left + right[:1], 0, 2, [right[1:]], mth(leaves))


def test_roots_that_are_no_hashes_are_refused() -> None:
    for root in (b"", SOME_HASH[1:], SOME_HASH + b"\0"):
        with pytest.raises(EvidenceError, match="32 octets"):
            verify_consistency(2, root, 2, root, [])
        with pytest.raises(EvidenceError, match="32 octets"):
            verify_inclusion(root, 0, 1, [], root)


def test_a_node_does_not_pass_for_a_leaf() -> None:
    leaves = contents(4)
    left, right = mth(leaves[:2]), mth(leaves[2:])
    forged = leaf_hash(leaf_hash(leaves[0]) + leaf_hash(leaves[1]))
    verify_inclusion(left, 0, 2, [right], mth(leaves))  # a verifier hashes the leaf itself: never this
    with pytest.raises(EvidenceError):
        verify_inclusion(forged, 0, 2, [right], mth(leaves))
