"""The services of `otahsm.v1`: each method decodes values, calls the authority, and encodes the result."""

from otahsm.daemon.services.access import AccessService, AuditService
from otahsm.daemon.services.approvals import ApprovalService
from otahsm.daemon.services.authority import AuthorityService
from otahsm.daemon.services.batches import BatchService
from otahsm.daemon.services.issuance import IssuanceService
from otahsm.daemon.services.ledger import LedgerService
from otahsm.daemon.services.revocation import DeviceService, RevocationService
from otahsm.daemon.services.transparency import TransparencyService

__all__ = [
    "AccessService",
    "ApprovalService",
    "AuditService",
    "AuthorityService",
    "BatchService",
    "DeviceService",
    "IssuanceService",
    "LedgerService",
    "RevocationService",
    "TransparencyService",
]
