"""The Merkle tree over what was written: leaves, the sequencer, and its verification."""
