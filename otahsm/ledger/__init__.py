"""The only room that talks SQL: what was intended, what was issued, and to whom."""

from otahsm.ledger.database import database_of, throwaway
from otahsm.ledger.records import Accepted, Answer, Conflict, InProgress, Intent, Renewal, Replay
from otahsm.ledger.store import Ledger

__all__ = [
    "Accepted",
    "Answer",
    "Conflict",
    "InProgress",
    "Intent",
    "Ledger",
    "Renewal",
    "Replay",
    "database_of",
    "throwaway",
]
