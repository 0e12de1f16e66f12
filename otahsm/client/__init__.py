"""The client: an asynchronous SDK, device keys and device folders. Needs no token and no database.

async with IssuingClient("ca.example:7443", ClientTls(ca, certificate, key)) as client:
    async for result in client.issue(CertificateRequest(csr) for csr in csrs):
        ...
"""

from otahsm.client.asking import DaemonClient
from otahsm.client.connection import ClientTls
from otahsm.client.folders import DeviceFolders
from otahsm.client.issuing import IssuingClient
from otahsm.client.keys import DeviceKey, make_csr, make_device_key
from otahsm.client.ledger import LedgerClient
from otahsm.client.ledger_values import Count, LedgerEntry, Query
from otahsm.client.line import Done, Failed, issue_devices, sign_csrs
from otahsm.client.orders import Order, unfinished_counts
from otahsm.client.revoking import FetchedCrl, NotRevoked, Revoked, RevokingClient, ToRevoke
from otahsm.client.transparency import TransparencyClient
from otahsm.client.values import Authority, CertificateRequest, IssuedCertificate, Refusal, Result

__all__ = [
    "Authority",
    "CertificateRequest",
    "ClientTls",
    "Count",
    "DaemonClient",
    "DeviceFolders",
    "DeviceKey",
    "Done",
    "Failed",
    "FetchedCrl",
    "IssuedCertificate",
    "IssuingClient",
    "LedgerClient",
    "LedgerEntry",
    "NotRevoked",
    "Order",
    "Query",
    "Refusal",
    "Result",
    "Revoked",
    "RevokingClient",
    "ToRevoke",
    "TransparencyClient",
    "issue_devices",
    "make_csr",
    "make_device_key",
    "sign_csrs",
    "unfinished_counts",
]
