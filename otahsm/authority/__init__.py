"""The certification authority: everything between the network and the rooms that issue, revoke and prove."""

from otahsm.access import AccessControl, Caller, Denied, DenyList, Policy
from otahsm.authority.service import Issuance
from otahsm.issuance.authorities import Authorities
from otahsm.issuance.batches import Batches, NewBatch, Scheme, unknown_batch
from otahsm.issuance.values import (
    IssuanceRequest,
    Issued,
    Outcome,
    RevocationOutcome,
    RevocationRequest,
    RevokedDevice,
)
from otahsm.ledger import (
    AUTHORITIES,
    COMPLETE,
    START,
    BatchState,
    Entry,
    EventFilter,
    Filter,
    Group,
    Status,
    StoredCrl,
)
from otahsm.ledger.queries import MAX_COUNTS, LedgerQueries
from otahsm.transparency.audit import AuditLog, EventName
from otahsm.transparency.log import Transparency

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "MAX_COUNTS",
    "START",
    "AccessControl",
    "AuditLog",
    "Authorities",
    "BatchState",
    "Batches",
    "Caller",
    "Denied",
    "DenyList",
    "Entry",
    "EventFilter",
    "EventName",
    "Filter",
    "Group",
    "Issuance",
    "IssuanceRequest",
    "Issued",
    "LedgerQueries",
    "NewBatch",
    "Outcome",
    "Policy",
    "RevocationOutcome",
    "RevocationRequest",
    "RevokedDevice",
    "Scheme",
    "Status",
    "StoredCrl",
    "Transparency",
    "unknown_batch",
]
