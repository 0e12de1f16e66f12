"""The only room that talks SQL: what was intended, what was issued, and to whom."""

from otahsm.ledger.database import database_of, throwaway
from otahsm.ledger.merkle_log import Head, LoggedLeaf, MerkleLog
from otahsm.ledger.records import Accepted, Answer, Conflict, InProgress, Intent, Replay
from otahsm.ledger.snapshot import snapshot
from otahsm.ledger.store import Ledger
from otahsm.ledger.verdict import Finding, Verdict
from otahsm.ledger.verification import verify

__all__ = [
    "Accepted",
    "Answer",
    "Conflict",
    "Finding",
    "Head",
    "InProgress",
    "Intent",
    "Ledger",
    "LoggedLeaf",
    "MerkleLog",
    "Replay",
    "Verdict",
    "database_of",
    "snapshot",
    "throwaway",
    "verify",
]
