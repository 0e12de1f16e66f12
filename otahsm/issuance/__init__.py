"""The issuance cycle: admission, preparation, journal, signature, record, release. See `cycle`.

And what follows it, if need be: see `revocation`.
"""

from otahsm.issuance.authority import Authorities
from otahsm.issuance.batches import Batches, NewBatch, Scheme
from otahsm.issuance.inspection import MAX_COUNTS, Inspection
from otahsm.issuance.service import Issuance
from otahsm.issuance.transparency import Transparency
from otahsm.issuance.values import (
    Caller,
    Issued,
    Order,
    Outcome,
    RevocationOrder,
    RevocationOutcome,
    RevokedDevice,
)
from otahsm.ledger import AUTHORITIES, COMPLETE, START, BatchState, Entry, Filter, Group, Status, StoredCrl

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "MAX_COUNTS",
    "START",
    "Authorities",
    "BatchState",
    "Batches",
    "Caller",
    "Entry",
    "Filter",
    "Group",
    "Inspection",
    "Issuance",
    "Issued",
    "NewBatch",
    "Order",
    "Outcome",
    "RevocationOrder",
    "RevocationOutcome",
    "RevokedDevice",
    "Scheme",
    "Status",
    "StoredCrl",
    "Transparency",
]
