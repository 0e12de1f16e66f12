"""The only room that talks SQL: what was intended, what was issued, and to whom."""

from otahsm.ledger.database import database_of, throwaway
from otahsm.ledger.entries import START, Entry, Filter, Group, Page, Status, Tally
from otahsm.ledger.reading import LedgerReader
from otahsm.ledger.records import Accepted, Answer, Conflict, InProgress, Intent, Replay
from otahsm.ledger.store import Ledger

__all__ = [
    "START",
    "Accepted",
    "Answer",
    "Conflict",
    "Entry",
    "Filter",
    "Group",
    "InProgress",
    "Intent",
    "Ledger",
    "LedgerReader",
    "Page",
    "Replay",
    "Status",
    "Tally",
    "database_of",
    "throwaway",
]
