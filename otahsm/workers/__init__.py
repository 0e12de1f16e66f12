"""Worker processes: hostile input is parsed, and the token is used, outside of the process on the network.

A worker is a fresh Python process (never a fork: PKCS#11 modules break across one) that handles requests, one
at a time, over its standard input and output. Messages are lists of byte strings, never pickles: a
compromised daemon can request signatures from a signer, but not run code in it.
"""

from otahsm.workers.child import outliving_the_daemon, run_worker
from otahsm.workers.pool import Report, WorkerPool

__all__ = ["Report", "WorkerPool", "outliving_the_daemon", "run_worker"]
