"""The ledger: the only package that uses SQL. It records intents, certificates, revocations and events."""

from otahsm.ledger.act_values import (
    Act,
    ActEvents,
    ActKind,
    ActState,
    BreakGlass,
    Decided,
    Decider,
    Requester,
    ToDeny,
    asked_in,
    not_the_act,
    terms_in,
    unknown_act,
)
from otahsm.ledger.break_glass import break_glass_mac, vouches
from otahsm.ledger.db.database import Database, database_of
from otahsm.ledger.mac_key_file import create_mac_key, path_of_key, read_mac_keys, replace_mac_key
from otahsm.ledger.query_values import (
    START,
    CertificateRecord,
    CountKey,
    EventFilter,
    EventPage,
    Filter,
    Page,
    Status,
)
from otahsm.ledger.read.backup import Copy, copy_ledger, path_of, vacant
from otahsm.ledger.read.compared_certificates import ComparedCertificates, compare_certificates
from otahsm.ledger.read.compared_crls import ComparedCrls, compare_crls
from otahsm.ledger.read.crl_reader import CrlReader, CrlState
from otahsm.ledger.read.diagnostics import count_valid, diagnose_ledger
from otahsm.ledger.read.published import Published, check_that_it_grew, is_unused, read_published
from otahsm.ledger.read.reader import LedgerReader
from otahsm.ledger.read.recorded_certificate import CertificateComparison, RecordedCertificate
from otahsm.ledger.read.signatures import Comparison, Period, Signatures, SignedList, compare_signatures
from otahsm.ledger.read.snapshot import snapshot
from otahsm.ledger.read.weak_keys import KeyVerdict, WeakCertificate, compare_keys
from otahsm.ledger.records import (
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
    EventFactory,
    InProgress,
    Intent,
    JournalResult,
    OverQuota,
    QuotaLimits,
    QuotaReset,
    Renewal,
    Replay,
    Revocation,
    RevocationAnswer,
    RevocationRequest,
    StoredCrl,
    Vouched,
)
from otahsm.ledger.shape.check import verify_shape
from otahsm.ledger.store import Ledger
from otahsm.ledger.throwaway import throwaway
from otahsm.ledger.tree.pending import MacKeys
from otahsm.ledger.tree.proofs import Head, read_head
from otahsm.ledger.tree.verdict import Verdict
from otahsm.ledger.tree.verification import verify
from otahsm.ledger.write.takeover import Unproven, unproven_entries
from otahsm.pki.crls.distribution import AUTHORITIES, COMPLETE

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "START",
    "Accepted",
    "Act",
    "ActEvents",
    "ActKind",
    "ActState",
    "AuditEvent",
    "Barred",
    "Batch",
    "BatchRefusal",
    "BatchState",
    "BatchTerms",
    "BreakGlass",
    "CertificateComparison",
    "CertificateRecord",
    "Change",
    "ComparedCertificates",
    "ComparedCrls",
    "Comparison",
    "Conflict",
    "Copy",
    "CountKey",
    "CrlNumber",
    "CrlReader",
    "CrlRow",
    "CrlState",
    "Database",
    "Decided",
    "Decider",
    "EventFactory",
    "EventFilter",
    "EventPage",
    "Filter",
    "Head",
    "InProgress",
    "Intent",
    "JournalResult",
    "KeyVerdict",
    "Ledger",
    "LedgerReader",
    "MacKeys",
    "OverQuota",
    "Page",
    "Period",
    "Published",
    "QuotaLimits",
    "QuotaReset",
    "RecordedCertificate",
    "Renewal",
    "Replay",
    "Requester",
    "Revocation",
    "RevocationAnswer",
    "RevocationRequest",
    "Signatures",
    "SignedList",
    "Status",
    "StoredCrl",
    "ToDeny",
    "Unproven",
    "Verdict",
    "Vouched",
    "WeakCertificate",
    "asked_in",
    "break_glass_mac",
    "check_that_it_grew",
    "compare_certificates",
    "compare_crls",
    "compare_keys",
    "compare_signatures",
    "copy_ledger",
    "count_valid",
    "create_mac_key",
    "database_of",
    "diagnose_ledger",
    "is_unused",
    "not_the_act",
    "path_of",
    "path_of_key",
    "read_head",
    "read_mac_keys",
    "read_published",
    "replace_mac_key",
    "snapshot",
    "terms_in",
    "throwaway",
    "unknown_act",
    "unproven_entries",
    "vacant",
    "verify",
    "verify_shape",
    "vouches",
]
