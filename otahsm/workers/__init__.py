"""Worker processes: hostile input is parsed, and the token is used, outside of the process on the network.

A worker is a fresh Python process (never a fork: PKCS#11 modules break across one) that handles requests, one
at a time, over its standard input and output. Messages are lists of byte strings, never pickles: a
compromised daemon can request signatures from a signer, but not run code in it.

This package names nothing itself, nor do the rooms of the workers: `pool` is the daemon's side, `child` a
worker's, and neither loads the other.
"""
