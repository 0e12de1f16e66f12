"""A transparency log as pure functions: Merkle trees, signed notes, checkpoints, proofs.

Bytes in, bytes out. No clock, no I/O, no token, no database. The formats are public, so that other programs
can verify our output: RFC 9162, section 2.1, and C2SP's signed-note, tlog-checkpoint, tlog-proof and
tlog-witness.
"""

from otahsm.tlog.checkpoint import Checkpoint, open_checkpoint
from otahsm.tlog.leaf import CERTIFICATE_KINDS, canonical, parse_leaf
from otahsm.tlog.merkle import (
    EMPTY_ROOT,
    MAX_SIZE,
    CompactTree,
    Fetch,
    Row,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from otahsm.tlog.note import Note, SignatureType, VerifierKey, assemble, open_note, parse_note, text_to_sign
from otahsm.tlog.proof import ConsistencyProof, InclusionProof

__all__ = [
    "CERTIFICATE_KINDS",
    "EMPTY_ROOT",
    "MAX_SIZE",
    "Checkpoint",
    "CompactTree",
    "ConsistencyProof",
    "Fetch",
    "InclusionProof",
    "Note",
    "Row",
    "SignatureType",
    "VerifierKey",
    "assemble",
    "canonical",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "open_checkpoint",
    "open_note",
    "parse_leaf",
    "parse_note",
    "root_of",
    "text_to_sign",
    "verify_consistency",
    "verify_inclusion",
]
