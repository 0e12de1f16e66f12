"""The client: an asynchronous SDK. It needs no token and no database.

async with Client("ca.example:7443", ClientTls(ca, certificate, key)) as client:
    async for result in client.issuance.issue(CertificateRequest(csr) for csr in csrs):
        ...
"""

from otahsm.client.access import AccessClient, AuditEvent, AuditQuery, DeniedClient
from otahsm.client.approvals import ApprovalClient, HeldAct
from otahsm.client.batches import Batch, BatchClient, IdScheme
from otahsm.client.checking import load_anchors
from otahsm.client.client import Client
from otahsm.client.connection import ClientTls
from otahsm.client.issuance import IssuanceClient
from otahsm.client.ledger import Count, LedgerClient, LedgerEntry, Query
from otahsm.client.revocation import FetchedCrl, NotRevoked, RevocationClient, Revoked, ToRevoke
from otahsm.client.transparency import TransparencyClient
from otahsm.client.values import (
    Authority,
    CertificateRequest,
    IssuedCertificate,
    Job,
    Profile,
    Refusal,
    Result,
)

__all__ = [
    "AccessClient",
    "ApprovalClient",
    "AuditEvent",
    "AuditQuery",
    "Authority",
    "Batch",
    "BatchClient",
    "CertificateRequest",
    "Client",
    "ClientTls",
    "Count",
    "DeniedClient",
    "FetchedCrl",
    "HeldAct",
    "IdScheme",
    "IssuanceClient",
    "IssuedCertificate",
    "Job",
    "LedgerClient",
    "LedgerEntry",
    "NotRevoked",
    "Profile",
    "Query",
    "Refusal",
    "Result",
    "RevocationClient",
    "Revoked",
    "ToRevoke",
    "TransparencyClient",
    "load_anchors",
]
