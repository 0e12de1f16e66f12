"""The issuance cycle: admission, preparation, journal, signature, record, release. See `cycle`."""

from otahsm.issuance.inspection import MAX_COUNTS, Inspection
from otahsm.issuance.service import Issuance
from otahsm.issuance.values import Caller, Issued, Order, Outcome
from otahsm.ledger import START, Entry, Filter, Group, Status

__all__ = [
    "MAX_COUNTS",
    "START",
    "Caller",
    "Entry",
    "Filter",
    "Group",
    "Inspection",
    "Issuance",
    "Issued",
    "Order",
    "Outcome",
    "Status",
]
