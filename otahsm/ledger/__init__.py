"""The only room that talks SQL: what was intended, what was issued, and to whom."""

from otahsm.ledger.backup import Copy, copy_ledger, path_of, vacant
from otahsm.ledger.crl_reader import CrlReader, CrlState
from otahsm.ledger.database import Database, database_of, throwaway
from otahsm.ledger.diagnostics import count_valid, diagnose_ledger
from otahsm.ledger.entries import START, Entry, EventFilter, EventPage, Filter, Group, Page, Status, Tally
from otahsm.ledger.merkle_log import Head, LoggedLeaf, MerkleLog
from otahsm.ledger.reading import LedgerReader
from otahsm.ledger.records import (
    AUTHORITIES,
    COMPLETE,
    Accepted,
    Answer,
    AuditEvent,
    Barred,
    Batch,
    BatchState,
    BatchTerms,
    Change,
    Conflict,
    CrlRow,
    InProgress,
    Intent,
    Issue,
    NoPlace,
    OverQuota,
    Renewal,
    Replay,
    Revocation,
    StoredCrl,
    Target,
    Tell,
)
from otahsm.ledger.snapshot import snapshot
from otahsm.ledger.store import Ledger
from otahsm.ledger.verdict import Finding, Verdict
from otahsm.ledger.verification import verify

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "START",
    "Accepted",
    "Answer",
    "AuditEvent",
    "Barred",
    "Batch",
    "BatchState",
    "BatchTerms",
    "Change",
    "Conflict",
    "Copy",
    "CrlReader",
    "CrlRow",
    "CrlState",
    "Database",
    "Entry",
    "EventFilter",
    "EventPage",
    "Filter",
    "Finding",
    "Group",
    "Head",
    "InProgress",
    "Intent",
    "Issue",
    "Ledger",
    "LedgerReader",
    "LoggedLeaf",
    "MerkleLog",
    "NoPlace",
    "OverQuota",
    "Page",
    "Renewal",
    "Replay",
    "Revocation",
    "Status",
    "StoredCrl",
    "Tally",
    "Target",
    "Tell",
    "Verdict",
    "copy_ledger",
    "count_valid",
    "database_of",
    "diagnose_ledger",
    "path_of",
    "snapshot",
    "throwaway",
    "vacant",
    "verify",
]
