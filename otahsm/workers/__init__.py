"""Worker processes: who parses hostile input, and who holds the token, is not who faces the network.

A worker is a fresh Python process (never a fork: PKCS#11 modules break across one) that answers
batches, one at a time, over its standard input and output. What crosses is lists of byte strings, never
pickles: a daemon that was taken over can ask a signer for signatures, but not run code in it.
"""

from otahsm.workers.child import outliving_the_daemon, run_worker
from otahsm.workers.pool import Report, WorkerPool

__all__ = ["Report", "WorkerPool", "outliving_the_daemon", "run_worker"]
