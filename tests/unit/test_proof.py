"""A proof is verified with the leaf or an older checkpoint, and the log's verifier key: nothing else.

The Sigsum log's checkpoints and consistency proofs are from github.com/FiloSottile/torchwood
(internal/witness/witness_test.go); encodings from github.com/transparency-dev/formats
(proof/tlog_proof_test.go, Apache-2.0); examples from c2sp.org/tlog-witness and c2sp.org/tlog-proof.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.errors import EvidenceError
from otahsm.tlog import (
    EMPTY_ROOT,
    MAX_SIZE,
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    SignatureType,
    VerifierKey,
    open_checkpoint,
    verify_inclusion,
)
from otahsm.tlog.note import MAX_NOTE_BYTES
from otahsm.tlog.proof import MAX_EXTRA_BYTES

from support.transparency import Log, SigningKey

SIGSUM = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
SIGSUM_KEY = VerifierKey(
    SIGSUM,
    SignatureType.ED25519,
    bytes.fromhex("ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f"),
)
FROM_0_TO_1 = f"""\
old 0

{SIGSUM}
1
KgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

— {SIGSUM} UgIom7fPZTqpxWWhyjWduBvTvGVqsokMbqTArsQilegKoFBJQjUFAmQ0+YeSPM3wfUQMFSzVnnNuWRTYrajXpNUbIQY=
"""
FROM_1_TO_3 = f"""\
old 1
KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
KgIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

{SIGSUM}
3
RcCI1Nk56ZcSmIEfIn0SleqtV7uvrlXNccFx595Iwl0=

— {SIGSUM} UgIom2VbtIcdFbwFAy1n7s6IkAxIY6J/GQOTuZF2ORV39d75cbAj2aQYwyJre36kezNobZs4SUUdrcawfAB8WVrx6go=
"""
FROM_1_TO_5 = f"""\
old 1
KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
+fUDV+k970B4I3uKrqJM4aP1lloPZP8mvr2Z4wRw2LI=
KgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=

{SIGSUM}
5
QrtXrQZCCvpIgsSmOsah7HdICzMLLyDfxToMql9WTjY=

— {SIGSUM} UgIomw/EOJmWi0i1FQsOj+etB7F8IccFam/jgd6wzRns4QPVmyEZtdvl1U2KEmLOZ/ASRcWJi0tW90dJWAShei7sDww=
"""
WITNESS_EXAMPLE = """\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
"""
PROOF_EXAMPLE_HASHES = """\
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=
"""
HASH_1, HASH_2 = sha256(b"hash1").digest(), sha256(b"hash2").digest()
KEYS: list[SigningKey] = [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())]

hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple)
checkpoints = st.binary(max_size=200)


def b64(octets: bytes) -> str:
    return b64encode(octets).decode()


EXTRA = b64(b"extra information")


def log_of(count: int, key: SigningKey = KEYS[0]) -> Log:
    log = Log(key)
    log.append([b"certificate %d" % number for number in range(count)])
    return log


def flipped(octets: bytes) -> list[bytes]:
    number = int.from_bytes(octets, "big")
    return [(number ^ 1 << bit).to_bytes(len(octets), "big") for bit in range(len(octets) * 8)]


def test_the_published_history_of_a_log_is_verified() -> None:
    empty = Checkpoint(SIGSUM, 0, EMPTY_ROOT)
    first = ConsistencyProof.parse(FROM_0_TO_1.encode()).verify(empty, SIGSUM_KEY)
    assert (first.size, first.root) == (1, b"\x2a" + bytes(31))
    third = ConsistencyProof.parse(FROM_1_TO_3.encode()).verify(first, SIGSUM_KEY)
    fifth = ConsistencyProof.parse(FROM_1_TO_5.encode()).verify(first, SIGSUM_KEY)
    assert fifth.root.hex() == "42bb57ad06420afa4882c4a63ac6a1ec77480b330b2f20dfc53a0caa5f564e36"
    # The leaf hashes are 2a00.., 2a01.., 2a02..: so there is an inclusion proof in the published numbers too.
    verify_inclusion(b"\x2a\x02" + bytes(30), 2, 3, [_root_of_two()], third.root)
    for old, proof in (
        (third, FROM_1_TO_5),
        (first, FROM_0_TO_1),
        (empty, FROM_1_TO_3),
        (fifth, FROM_1_TO_3),
    ):
        with pytest.raises(EvidenceError, match="proof starts at"):
            ConsistencyProof.parse(proof.encode()).verify(old, SIGSUM_KEY)
    for proof in (FROM_0_TO_1, FROM_1_TO_3, FROM_1_TO_5):
        assert ConsistencyProof.parse(proof.encode()).encode() == proof.encode()


def _root_of_two() -> bytes:
    return sha256(b"\x01\x2a\x00" + bytes(30) + b"\x2a\x01" + bytes(30)).digest()


def test_every_bit_of_a_published_proof_counts() -> None:
    first = open_checkpoint(ConsistencyProof.parse(FROM_0_TO_1.encode()).checkpoint, SIGSUM_KEY)
    for wrong in flipped(FROM_1_TO_5.encode()):
        with pytest.raises(EvidenceError):
            ConsistencyProof.parse(wrong).verify(first, SIGSUM_KEY)


def test_the_specifications_examples_are_read_and_written() -> None:
    consistency = ConsistencyProof.parse(WITNESS_EXAMPLE.encode())
    assert consistency.old_size == 20852014
    assert len(consistency.hashes) == 4
    assert consistency.encode() == WITNESS_EXAMPLE.encode()
    extra = b64(b"age-v1.2.1-darwin-arm64.tar.gz")  # the specification's own is cut off
    example = (
        f"c2sp.org/tlog-proof@v1\nextra {extra}\nindex 73894\n{PROOF_EXAMPLE_HASHES}\nexample.com/fancylog\n"
    )
    inclusion = InclusionProof.parse(example.encode())
    assert (inclusion.index, inclusion.extra) == (73894, b"age-v1.2.1-darwin-arm64.tar.gz")
    assert inclusion.hashes[0].hex().startswith("8122b25e8619")
    assert inclusion.checkpoint == b"example.com/fancylog\n"
    assert inclusion.encode() == example.encode()


@pytest.mark.parametrize(
    ("proof", "encoded"),
    [
        (
            InclusionProof(5, (HASH_1, HASH_2), b"test checkpoint\n"),
            f"c2sp.org/tlog-proof@v1\nindex 5\n{b64(HASH_1)}\n{b64(HASH_2)}\n\ntest checkpoint\n",
        ),
        (
            InclusionProof(10, (HASH_1,), b"checkpoint data\n", b"extra information"),
            f"c2sp.org/tlog-proof@v1\nextra {EXTRA}\nindex 10\n{b64(HASH_1)}\n\ncheckpoint data\n",
        ),
        (InclusionProof(0, (), b"checkpoint\n"), "c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"),
    ],
)
def test_encodings_are_the_published_ones(proof: InclusionProof, encoded: str) -> None:
    assert proof.encode() == encoded.encode()
    assert InclusionProof.parse(encoded.encode()) == proof


@settings(deadline=None)
@given(st.integers(0, MAX_SIZE), hashes, checkpoints, st.binary(max_size=MAX_EXTRA_BYTES))
def test_what_is_written_is_what_is_read(
    number: int, path: tuple[bytes, ...], checkpoint: bytes, extra: bytes
) -> None:
    inclusion = InclusionProof(number, path, checkpoint, extra)
    assert InclusionProof.parse(inclusion.encode()) == inclusion
    consistency = ConsistencyProof(number, path, checkpoint)
    assert ConsistencyProof.parse(consistency.encode()) == consistency


def test_the_largest_proof_is_written_and_read() -> None:
    proof = InclusionProof(MAX_SIZE, (HASH_1,) * 63, bytes(MAX_NOTE_BYTES), bytes(MAX_EXTRA_BYTES))
    assert InclusionProof.parse(proof.encode()) == proof


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9])
def test_a_leaf_is_proven_with_its_content_and_the_verifier_key(size: int, key: SigningKey) -> None:
    log = log_of(size, key)
    verifier = VerifierKey.parse(log.verifier.vkey)
    for index in range(size):
        encoded = log.inclusion(index, size, b"not signed").encode()
        proof = InclusionProof.parse(encoded)
        assert proof.verify(b"certificate %d" % index, verifier) == log.checkpoint(size)
        assert proof.extra == b"not signed"
        for leaf in (b"certificate %d" % (index + 1), b"certificate", b""):
            with pytest.raises(EvidenceError, match="another root"):
                proof.verify(leaf, verifier)


@pytest.mark.parametrize("size", [1, 6])
def test_every_bit_of_an_inclusion_proof_counts(size: int) -> None:
    log = log_of(size)
    proof = log.inclusion(size // 2, size)
    for wrong in flipped(proof.encode()):
        with pytest.raises(EvidenceError):
            InclusionProof.parse(wrong).verify(b"certificate %d" % (size // 2), log.verifier)


def test_a_proof_that_is_cut_off_or_goes_on_is_refused() -> None:
    log = log_of(6)
    encoded = log.inclusion(3, 6).encode()
    assert InclusionProof.parse(encoded).verify(b"certificate 3", log.verifier) == log.checkpoint(6)
    for wrong in (
        *(encoded[:end] for end in range(len(encoded))),
        encoded + b"\n",
        encoded + encoded,
        b"\n" + encoded,
    ):
        with pytest.raises(EvidenceError):
            InclusionProof.parse(wrong).verify(b"certificate 3", log.verifier)


def test_a_proof_of_another_log_or_key_is_refused() -> None:
    log, other = log_of(6), log_of(6, KEYS[1])
    with pytest.raises(EvidenceError, match="None of the trusted keys"):
        log.inclusion(3, 6).verify(b"certificate 3", other.verifier)
    with pytest.raises(EvidenceError, match="None of the trusted keys"):
        log.inclusion(3, 6).verify(b"certificate 3")
    before = Checkpoint("elsewhere.example", 3, log.trees[3].root)
    with pytest.raises(EvidenceError, match="different logs"):
        log.consistency(3, 6).verify(before, log.verifier)


def test_a_log_that_grew_is_told_from_one_that_was_rewritten() -> None:
    log, rewritten = log_of(9), log_of(0)
    rewritten.append([b"removed", *(b"certificate %d" % number for number in range(1, 9))])
    for old in range(10):
        proof = ConsistencyProof.parse(log.consistency(old, 9).encode())
        assert proof.verify(log.checkpoint(old), log.verifier) == log.checkpoint(9)
        if old:
            with pytest.raises(EvidenceError, match="root"):
                rewritten.consistency(old, 9).verify(log.checkpoint(old), log.verifier)
    shrunk = ConsistencyProof(9, (), log.signed(8))
    with pytest.raises(EvidenceError, match="never shrink"):
        shrunk.verify(log.checkpoint(9), log.verifier)


HEAD, TAIL = "c2sp.org/tlog-proof@v1\n", "\ncheckpoint\n"
HOSTILE = {
    "nothing": "",
    "newlines": "\n" * 1000,
    "another header": f"wrong-header\nindex 0\n{TAIL}",
    "no header": f"index 0\n{TAIL}",
    "another version": f"c2sp.org/tlog-proof@v2\nindex 0\n{TAIL}",
    "a space after the header": f"c2sp.org/tlog-proof@v1 \nindex 0\n{TAIL}",
    "a carriage return": f"{HEAD}index 0\n{TAIL}".replace("\n", "\r\n"),
    "no index": f"{HEAD}\n{TAIL}",
    "no index but a hash": f"{HEAD}{b64(HASH_1)}\n{TAIL}",
    "nothing after the header": HEAD,
    "no checkpoint": f"{HEAD}index 0\n{b64(HASH_1)}\n",
    "words for an index": f"{HEAD}index notanumber\n{TAIL}",
    "an empty index": f"{HEAD}index \n{TAIL}",
    "no space": f"{HEAD}index0\n{TAIL}",
    "two spaces": f"{HEAD}index  0\n{TAIL}",
    "a negative index": f"{HEAD}index -5\n{TAIL}",
    "a leading zero": f"{HEAD}index 05\n{TAIL}",
    "an index past the limit": f"{HEAD}index {MAX_SIZE + 1}\n{TAIL}",
    "an index of 90,000 digits": f"{HEAD}index {'9' * 90_000}\n{TAIL}",
    "two indexes": f"{HEAD}index 0\nindex 0\n{TAIL}",
    "extra data after the index": f"{HEAD}index 0\nextra YQ==\n{TAIL}",
    "extra data twice": f"{HEAD}extra YQ==\nextra YQ==\nindex 0\n{TAIL}",
    "extra data that is no base64": f"{HEAD}extra !!notbase64!!\nindex 0\n{TAIL}",
    "an empty extra line": f"{HEAD}extra \nindex 0\n{TAIL}",
    "too much extra data": f"{HEAD}extra {b64(bytes(MAX_EXTRA_BYTES + 1))}\nindex 0\n{TAIL}",
    "a megabyte of extra data": f"{HEAD}extra {b64(bytes(1_000_000))}\nindex 0\n{TAIL}",
    "a hash that is no base64": f"{HEAD}index 0\n!!notbase64!!\n{TAIL}",
    "a hash that is not ASCII": f"{HEAD}index 0\n{b64(HASH_1)}é\n{TAIL}",
    "a short hash": f"{HEAD}index 0\n{b64(bytes(31))}\n{TAIL}",
    "a long hash": f"{HEAD}index 0\n{b64(bytes(64))}\n{TAIL}",
    "a hash without padding": f"{HEAD}index 0\n{b64(HASH_1)[:-1]}\n{TAIL}",
    "too many hashes": f"{HEAD}index 0\n" + f"{b64(HASH_1)}\n" * 64 + TAIL,
    "a checkpoint that is too long": f"{HEAD}index 0\n{TAIL}" + "a" * MAX_NOTE_BYTES,
}


HOSTILE_CONSISTENCY = {
    name: encoded.removeprefix(HEAD).replace("index", "old")
    for name, encoded in HOSTILE.items()
    if encoded.startswith(HEAD)
}


@pytest.mark.parametrize("encoded", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_inclusion_proofs_are_refused(encoded: str) -> None:
    with pytest.raises(EvidenceError):
        InclusionProof.parse(encoded.encode())


@pytest.mark.parametrize("encoded", HOSTILE_CONSISTENCY.values(), ids=HOSTILE_CONSISTENCY.keys())
def test_hostile_consistency_proofs_are_refused(encoded: str) -> None:
    with pytest.raises(EvidenceError):
        ConsistencyProof.parse(encoded.encode())


@settings(deadline=None)
@given(
    st.binary(),
    st.sampled_from([b"%b", HEAD.encode() + b"%b", HEAD.encode() + b"index 0\n%b\n\n", b"old 0\n%b\n"]),
)
def test_any_octets_are_a_proof_or_an_evidence_error(octets: bytes, surrounding: bytes) -> None:
    encoded = surrounding % octets
    for kind in (InclusionProof, ConsistencyProof):
        try:
            proof = kind.parse(encoded)
        except EvidenceError:
            continue
        assert proof.encode() == encoded


@pytest.mark.parametrize(
    ("number", "path", "checkpoint", "extra"),
    [
        (-1, (), b"", b""),
        (MAX_SIZE + 1, (), b"", b""),
        (0, (HASH_1[1:],), b"", b""),
        (0, (HASH_1,) * 64, b"", b""),
        (0, (), bytes(MAX_NOTE_BYTES + 1), b""),
        (0, (), b"", bytes(MAX_EXTRA_BYTES + 1)),
    ],
)
def test_there_are_no_proofs_that_could_not_be_read(
    number: int, path: tuple[bytes, ...], checkpoint: bytes, extra: bytes
) -> None:
    with pytest.raises(EvidenceError):
        InclusionProof(number, path, checkpoint, extra)
    if not extra:
        with pytest.raises(EvidenceError):
            ConsistencyProof(number, path, checkpoint)
