"""Signed notes, proofs and leaves: what is taken is what was signed, in its one encoding."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from otahsm.errors import EvidenceError
from otahsm.tlog import (
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    Note,
    VerifierKey,
    assemble,
    open_note,
    parse_leaf,
    parse_note,
    text_to_sign,
)
from otahsm.tlog.encoding import encode_base64

from support.transparency import Log, sign

# Everybody knows this key; Ed25519 signs a text in only one way, so that a signature can be foretold.
KEY: Final = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LEAVES: Final = tuple(b'{"serial":"%02x"}' % number for number in range(11))
LOG: Final = Log(KEY)
LOG.append(LEAVES)


def note(data: bytes) -> None:
    """Read a note, a verifier key, and a text that is to be signed."""
    try:
        parsed = parse_note(data)
    except EvidenceError:
        parsed = None
    if parsed is not None:
        assert _joined(parsed) == data
        _open(data, parsed)
    _sign(data)
    _read_key(data)


def proof(data: bytes) -> None:
    """Read a proof or a checkpoint, and verify it against the log that has signed those of the corpus."""
    try:
        inclusion = InclusionProof.parse(data)
    except EvidenceError:
        pass
    else:
        assert inclusion.encode() == data
        _verify_inclusion(inclusion)
    try:
        consistency = ConsistencyProof.parse(data)
    except EvidenceError:
        pass
    else:
        assert consistency.encode() == data
        _verify_consistency(consistency)
    with contextlib.suppress(EvidenceError):
        assert Checkpoint.parse(data).encode() == data


def leaf(data: bytes) -> None:
    """Read a leaf."""
    try:
        parsed = parse_leaf(data)
    except EvidenceError:
        return
    members: list[tuple[str, Any]] = []
    json.loads(data, object_pairs_hook=members.extend)
    assert members == sorted(parsed.items())
    assert len(members) == len(parsed)


def _joined(parsed: Note) -> bytes:
    lines = (
        f"\N{EM DASH} {name} {encode_base64(key_id + signature)}\n"
        for name, key_id, signature in parsed.signatures
    )
    return parsed.text + b"\n" + "".join(lines).encode()


def _open(data: bytes, parsed: Note) -> None:
    verifier = LOG.verifier
    try:
        opened = open_note(data, verifier)
    except EvidenceError:
        return
    assert opened.text == parsed.text
    assert opened.signers == (verifier,)
    ours = [
        one.signature
        for one in parsed.signatures
        if (one.name, one.key_id) == (verifier.name, verifier.key_id)
    ]
    assert set(ours) == {sign(KEY, parsed.text)}


def _sign(data: bytes) -> None:
    try:
        text = data.decode()
        octets = text_to_sign(text)
    except (UnicodeDecodeError, EvidenceError):
        return
    assert octets == data
    made = assemble(octets, LOG.verifier, sign(KEY, octets))
    assert open_note(made, LOG.verifier).text == data


def _read_key(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        key = VerifierKey.parse(text)
    except EvidenceError:
        return
    assert key.vkey == text


def _verify_inclusion(inclusion: InclusionProof) -> None:
    for number, each in enumerate((*LEAVES, b"no leaf of it")):
        try:
            checkpoint = inclusion.verify(each, LOG.verifier)
        except EvidenceError:
            continue
        assert number == inclusion.index < len(LEAVES)
        assert checkpoint == LOG.checkpoint(checkpoint.size)
        assert inclusion.hashes == LOG.inclusion(number, checkpoint.size).hashes


def _verify_consistency(consistency: ConsistencyProof) -> None:
    for size in range(len(LEAVES) + 1):
        try:
            checkpoint = consistency.verify(LOG.checkpoint(size), LOG.verifier)
        except EvidenceError:
            continue
        assert size == consistency.old_size <= checkpoint.size
        assert checkpoint == LOG.checkpoint(checkpoint.size)
        assert consistency.hashes == LOG.consistency(size, checkpoint.size).hashes
