"""The issuance cycle: admission, preparation, journal, signature, record, release. See `cycle`."""

from otahsm.issuance.service import Issuance
from otahsm.issuance.transparency import Transparency
from otahsm.issuance.values import Caller, Issued, Order, Outcome

__all__ = ["Caller", "Issuance", "Issued", "Order", "Outcome", "Transparency"]
