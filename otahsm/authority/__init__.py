"""The certification authority: the application layer below the gRPC services."""

from otahsm.access import AccessControl, Caller, Denied, Policy
from otahsm.authority.approvals import Glass, HeldAct
from otahsm.authority.assembly import assemble
from otahsm.authority.certificate_authority import CertificateAuthority
from otahsm.authority.client_quotas import QuotaUse
from otahsm.authority.crls import CrlName
from otahsm.authority.jobs import Job, JobState
from otahsm.authority.values import AuthorityState, CertificateKey, DeviceKey, Profiles
from otahsm.issuance.authorities import Authorities
from otahsm.issuance.batches import NewBatch, Scheme
from otahsm.issuance.values import IssuanceRequest, Issued, Outcome
from otahsm.ledger import (
    AUTHORITIES,
    COMPLETE,
    START,
    ActKind,
    ActState,
    AuditEvent,
    BatchState,
    BreakGlass,
    CertificateRecord,
    CountKey,
    EventFilter,
    Filter,
    Revocation,
    RevocationRequest,
    Status,
)
from otahsm.revocation.revoking import RevocationOutcome
from otahsm.transparency.audit import EventName

__all__ = [
    "AUTHORITIES",
    "COMPLETE",
    "START",
    "AccessControl",
    "ActKind",
    "ActState",
    "AuditEvent",
    "Authorities",
    "AuthorityState",
    "BatchState",
    "BreakGlass",
    "Caller",
    "CertificateAuthority",
    "CertificateKey",
    "CertificateRecord",
    "CountKey",
    "CrlName",
    "Denied",
    "DeviceKey",
    "EventFilter",
    "EventName",
    "Filter",
    "Glass",
    "HeldAct",
    "IssuanceRequest",
    "Issued",
    "Job",
    "JobState",
    "NewBatch",
    "Outcome",
    "Policy",
    "Profiles",
    "QuotaUse",
    "Revocation",
    "RevocationOutcome",
    "RevocationRequest",
    "Scheme",
    "Status",
    "assemble",
]
