"""The issuance cycle: admission, preparation, journal, signature, record, release. See `cycle`.

And what follows it, if need be: see `revocation`.
"""

from otahsm.issuance.service import Issuance
from otahsm.issuance.values import (
    Caller,
    Issued,
    Order,
    Outcome,
    RevocationOrder,
    RevocationOutcome,
    RevokedDevice,
)
from otahsm.ledger import AUTHORITIES, COMPLETE, StoredCrl

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "Caller",
    "Issuance",
    "Issued",
    "Order",
    "Outcome",
    "RevocationOrder",
    "RevocationOutcome",
    "RevokedDevice",
    "StoredCrl",
]
