"""Makes small logs: trees that keep every node, signed by keys outside any token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otahsm.tlog import (
    Checkpoint,
    CompactTree,
    ConsistencyProof,
    InclusionProof,
    VerifierKey,
    assemble,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
)

SigningKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def spki_of(key: SigningKey | ec.EllipticCurvePublicKey) -> bytes:
    public = key if isinstance(key, ec.EllipticCurvePublicKey) else key.public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(key: SigningKey, octets: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(octets)
    return key.sign(octets, ec.ECDSA(SHA256()))


@dataclass
class Log:
    """A log in memory. Every node is kept, so that proofs can be made for every size that it had."""

    key: SigningKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)
    origin: str = "ota.example/ledger"
    tree: CompactTree = field(default_factory=CompactTree)
    nodes: dict[tuple[int, int], bytes] = field(default_factory=dict)
    trees: list[CompactTree] = field(default_factory=lambda: [CompactTree()])

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey.from_spki(self.origin, spki_of(self.key))

    def append(self, leaves: Sequence[bytes]) -> None:
        for leaf in leaves:
            self.tree, rows = self.tree.extend([leaf_hash(leaf)])
            self.trees.append(self.tree)
            for level, first, hashes in rows:
                for index, hashed in enumerate(hashes, first):
                    assert (level, index) not in self.nodes
                    self.nodes[level, index] = hashed

    def fetch(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, self.trees[size].root)

    def signed(self, size: int) -> bytes:
        text = self.checkpoint(size).encode()
        return assemble(text, self.verifier, sign(self.key, text))

    def inclusion(self, index: int, size: int, extra: bytes = b"") -> InclusionProof:
        hashes = tuple(inclusion_proof(index, size, self.fetch))
        return InclusionProof(index, hashes, self.signed(size), extra)

    def consistency(self, old_size: int, size: int) -> ConsistencyProof:
        hashes = tuple(consistency_proof(old_size, size, self.fetch))
        return ConsistencyProof(old_size, hashes, self.signed(size))
