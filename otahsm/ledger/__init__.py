"""The only room that talks SQL: what was intended, what was issued, and to whom."""

from otahsm.ledger.crl_books import CrlBooks, CrlState
from otahsm.ledger.database import Database, database_of, throwaway
from otahsm.ledger.records import (
    AUTHORITIES,
    COMPLETE,
    Accepted,
    Answer,
    Barred,
    Conflict,
    CrlRow,
    InProgress,
    Intent,
    Renewal,
    Replay,
    Revocation,
    StoredCrl,
    Target,
)
from otahsm.ledger.store import Ledger

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "Accepted",
    "Answer",
    "Barred",
    "Conflict",
    "CrlBooks",
    "CrlRow",
    "CrlState",
    "Database",
    "InProgress",
    "Intent",
    "Ledger",
    "Renewal",
    "Replay",
    "Revocation",
    "StoredCrl",
    "Target",
    "database_of",
    "throwaway",
]
