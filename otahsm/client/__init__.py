"""The client: an asynchronous SDK, device keys and device folders. Needs no token and no database.

async with IssuingClient("ca.example:7443", ClientTls(ca, certificate, key)) as client:
    async for result in client.issue(CertificateRequest(csr) for csr in csrs):
        ...
"""

from otahsm.client.access import AccessClient, AuditEvent, AuditQuery, DeniedClient
from otahsm.client.archives import pack
from otahsm.client.asking import DaemonClient
from otahsm.client.batch_report import Tally, report_html, report_row
from otahsm.client.batches import Batch, BatchClient, IdScheme
from otahsm.client.connection import ClientTls
from otahsm.client.csr_files import public_key_sha256
from otahsm.client.device_lists import (
    SEQUENCE,
    Device,
    DeviceList,
    devices_of_serials,
    listed_devices,
    numbered_devices,
    parse_namespace,
    random_devices,
    templated_devices,
)
from otahsm.client.folders import DeviceFolders
from otahsm.client.issuing import IssuingClient
from otahsm.client.keys import DeviceKey, make_csr, make_device_key
from otahsm.client.layouts import LayoutName
from otahsm.client.ledger import LedgerClient
from otahsm.client.ledger_values import Count, LedgerEntry, Query
from otahsm.client.line import Done, Failed, Recipe, issue_devices, sign_csrs
from otahsm.client.orders import Order, refusals_of, unfinished_orders
from otahsm.client.revoking import FetchedCrl, NotRevoked, Revoked, RevokingClient, ToRevoke
from otahsm.client.transparency import TransparencyClient
from otahsm.client.values import Authority, CertificateRequest, IssuedCertificate, Profile, Refusal, Result
from otahsm.templates import NAME as ATTRIBUTE_NAME
from otahsm.templates import Template

__all__ = [
    "ATTRIBUTE_NAME",
    "SEQUENCE",
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
    "Device",
    "DeviceFolders",
    "DeviceKey",
    "DeviceList",
    "Done",
    "Failed",
    "FetchedCrl",
    "IdScheme",
    "IssuedCertificate",
    "IssuingClient",
    "LayoutName",
    "LedgerClient",
    "LedgerEntry",
    "NotRevoked",
    "Order",
    "Profile",
    "Query",
    "Recipe",
    "Refusal",
    "Result",
    "Revoked",
    "RevokingClient",
    "Tally",
    "Template",
    "ToRevoke",
    "TransparencyClient",
    "devices_of_serials",
    "issue_devices",
    "listed_devices",
    "make_csr",
    "make_device_key",
    "numbered_devices",
    "pack",
    "parse_namespace",
    "public_key_sha256",
    "random_devices",
    "refusals_of",
    "report_html",
    "report_row",
    "sign_csrs",
    "templated_devices",
    "unfinished_orders",
]
