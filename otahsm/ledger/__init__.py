"""The only room that talks SQL: what was intended, what was issued, and to whom."""

from otahsm.ledger.backup import Copy, copy_ledger, path_of, vacant
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
    "Copy",
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
    "copy_ledger",
    "database_of",
    "path_of",
    "throwaway",
    "vacant",
]
