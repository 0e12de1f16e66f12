"""The only room that talks SQL: what was intended, what was issued, and to whom."""

from otahsm.ledger.db.database import Database, database_of, throwaway
from otahsm.ledger.entries import START, Entry, EventFilter, EventPage, Filter, Group, Page, Status
from otahsm.ledger.read.backup import Copy, copy_ledger, path_of, vacant
from otahsm.ledger.read.crl_reader import CrlReader, CrlState
from otahsm.ledger.read.diagnostics import count_valid, diagnose_ledger
from otahsm.ledger.read.reader import LedgerReader
from otahsm.ledger.read.snapshot import snapshot
from otahsm.ledger.records import (
    AUTHORITIES,
    COMPLETE,
    Accepted,
    AuditEvent,
    Barred,
    Batch,
    BatchRefusal,
    BatchState,
    BatchTerms,
    Change,
    Conflict,
    CrlNumber,
    CrlRow,
    InProgress,
    Intent,
    JournalResult,
    OverQuota,
    Renewal,
    Replay,
    Revocation,
    RevocationAnswer,
    RevocationRequest,
    StoredCrl,
    Tell,
)
from otahsm.ledger.store import Ledger
from otahsm.ledger.tree.proofs import Head
from otahsm.ledger.tree.verdict import Verdict
from otahsm.ledger.tree.verification import verify

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "START",
    "Accepted",
    "AuditEvent",
    "Barred",
    "Batch",
    "BatchRefusal",
    "BatchState",
    "BatchTerms",
    "Change",
    "Conflict",
    "Copy",
    "CrlNumber",
    "CrlReader",
    "CrlRow",
    "CrlState",
    "Database",
    "Entry",
    "EventFilter",
    "EventPage",
    "Filter",
    "Group",
    "Head",
    "InProgress",
    "Intent",
    "JournalResult",
    "Ledger",
    "LedgerReader",
    "OverQuota",
    "Page",
    "Renewal",
    "Replay",
    "Revocation",
    "RevocationAnswer",
    "RevocationRequest",
    "Status",
    "StoredCrl",
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
