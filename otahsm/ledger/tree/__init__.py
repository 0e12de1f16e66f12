"""The Merkle tree over the ledger's entries: leaves, the sequencer, proofs, and verification."""
