"""The client: an asynchronous SDK. It needs no token and no database.

async with IssuingClient("ca.example:7443", ClientTls(ca, certificate, key)) as client:
    async for result in client.issue(CertificateRequest(csr) for csr in csrs):
        ...
"""

from otahsm.client.access import AccessClient, AuditEvent, AuditQuery, DeniedClient
from otahsm.client.asking import DaemonClient
from otahsm.client.batches import Batch, BatchClient, IdScheme
from otahsm.client.connection import ClientTls
from otahsm.client.issuing import IssuingClient
from otahsm.client.ledger import LedgerClient
from otahsm.client.ledger_values import Count, LedgerEntry, Query
from otahsm.client.revoking import FetchedCrl, NotRevoked, Revoked, RevokingClient, ToRevoke
from otahsm.client.transparency import TransparencyClient
from otahsm.client.values import Authority, CertificateRequest, IssuedCertificate, Profile, Refusal, Result

__all__ = [
    "AccessClient",
    "AuditEvent",
    "AuditQuery",
    "Authority",
    "Batch",
    "BatchClient",
    "CertificateRequest",
    "ClientTls",
    "Count",
    "DaemonClient",
    "DeniedClient",
    "FetchedCrl",
    "IdScheme",
    "IssuedCertificate",
    "IssuingClient",
    "LedgerClient",
    "LedgerEntry",
    "NotRevoked",
    "Profile",
    "Query",
    "Refusal",
    "Result",
    "Revoked",
    "RevokingClient",
    "ToRevoke",
    "TransparencyClient",
]
