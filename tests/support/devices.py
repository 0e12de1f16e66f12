"""Requests that nobody else makes."""

from __future__ import annotations

import uuid

from otahsm.client import CertificateRequest, Client, IssuedCertificate, Refusal
from otahsm.line import make_device_key

from support.harness import RunningDaemon


def new_request(device_id: str = "") -> CertificateRequest:
    """Make a key and a CSR for a device; the id is random if none is given."""
    device_id = device_id or str(uuid.uuid4())
    return CertificateRequest(make_device_key(device_id, "ec-p256").csr, device_id)


def new_requests(count: int) -> list[CertificateRequest]:
    """Make requests for `count` devices."""
    return [new_request() for _ in range(count)]


async def issue_all(
    client: Client, requests: list[CertificateRequest], profile: str = ""
) -> tuple[list[IssuedCertificate], list[Refusal]]:
    """Have them issued; return certificates and refusals."""
    results = [result async for result in client.issuance.issue(requests, profile=profile)]
    issued = [result for result in results if isinstance(result, IssuedCertificate)]
    refused = [result for result in results if isinstance(result, Refusal)]
    assert len(issued) + len(refused) == len(requests)
    return issued, refused


async def issued(daemon: RunningDaemon, count: int) -> list[IssuedCertificate]:
    """Have a running daemon issue certificates."""
    async with daemon.client() as client:
        certificates, refused = await issue_all(client, new_requests(count))
    assert not refused
    return certificates
