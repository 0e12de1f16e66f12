"""Proofs that take long: `make soak` runs them whole, the tests their short forms."""
