"""The issuance cycle: admission, preparation, journal, signature, record, release. See `cycle`.

And what follows it, if need be: see `revocation`.
"""

from otahsm.access import AccessControl, Caller, CutOff, Denied, Policy
from otahsm.issuance.audit import AuditTrail, Happening
from otahsm.issuance.authority import Authorities
from otahsm.issuance.batches import Batches, NewBatch, Scheme, unknown_batch
from otahsm.issuance.inspection import MAX_COUNTS, Inspection
from otahsm.issuance.service import Issuance
from otahsm.issuance.transparency import Transparency
from otahsm.issuance.values import (
    Issued,
    Order,
    Outcome,
    RevocationOrder,
    RevocationOutcome,
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

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "MAX_COUNTS",
    "START",
    "AccessControl",
    "AuditTrail",
    "Authorities",
    "BatchState",
    "Batches",
    "Caller",
    "CutOff",
    "Denied",
    "Entry",
    "EventFilter",
    "Filter",
    "Group",
    "Happening",
    "Inspection",
    "Issuance",
    "Issued",
    "NewBatch",
    "Order",
    "Outcome",
    "Policy",
    "RevocationOrder",
    "RevocationOutcome",
    "RevokedDevice",
    "Scheme",
    "Status",
    "StoredCrl",
    "Transparency",
    "unknown_batch",
]
