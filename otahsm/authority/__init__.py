"""The certification authority: everything between the network and the rooms that issue, revoke and prove."""

from otahsm.access import AccessControl, Caller, Denied, DenyList, Policy
from otahsm.authority.assembly import assemble
from otahsm.authority.certificate_authority import CertificateAuthority
from otahsm.authority.crls import CrlName
from otahsm.authority.jobs import Job, JobState, Supervisor
from otahsm.authority.values import (
    AuthorityState,
    BatchPage,
    CertificateKey,
    DeviceKey,
    FoundCertificate,
    Profiles,
)
from otahsm.issuance.authorities import Authorities
from otahsm.issuance.batches import NewBatch, Scheme
from otahsm.issuance.values import (
    IssuanceRequest,
    Issued,
    Outcome,
)
from otahsm.ledger import (
    AUTHORITIES,
    COMPLETE,
    START,
    AuditEvent,
    BatchState,
    Entry,
    EventFilter,
    Filter,
    Group,
    Revocation,
    RevocationRequest,
    Status,
    StoredCrl,
)
from otahsm.ledger.read.queries import MAX_COUNTS
from otahsm.revocation.revoking import RevocationOutcome
from otahsm.transparency.audit import AuditLog, EventName

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "MAX_COUNTS",
    "START",
    "AccessControl",
    "AuditEvent",
    "AuditLog",
    "Authorities",
    "AuthorityState",
    "BatchPage",
    "BatchState",
    "Caller",
    "CertificateAuthority",
    "CertificateKey",
    "CrlName",
    "Denied",
    "DenyList",
    "DeviceKey",
    "Entry",
    "EventFilter",
    "EventName",
    "Filter",
    "FoundCertificate",
    "Group",
    "IssuanceRequest",
    "Issued",
    "Job",
    "JobState",
    "NewBatch",
    "Outcome",
    "Policy",
    "Profiles",
    "Revocation",
    "RevocationOutcome",
    "RevocationRequest",
    "Scheme",
    "Status",
    "StoredCrl",
    "Supervisor",
    "assemble",
]
