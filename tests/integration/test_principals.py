"""A client is the policy's client everywhere, whatever name its certificate bears."""

from __future__ import annotations

import hashlib
import json
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otahsm.client import (
    AuditQuery,
    Batch,
    CertificateRequest,
    Client,
    ClientTls,
    IdScheme,
    IssuedCertificate,
    Query,
    Refusal,
    Result,
    Revoked,
    ToRevoke,
)
from otahsm.errors import NotAllowedError, NotFoundError, RequestRefusedError
from otahsm.pki.crls.building import Reason

from support.devices import new_request
from support.harness import Fleet, RunningDaemon, running
from support.operators import OperatorCa, allow, certificate_of, new_client


class Known:
    """A client of a daemon."""

    def __init__(self, daemon: RunningDaemon, tls: ClientTls) -> None:
        self._daemon = daemon
        self._tls = tls

    def open(self) -> Client:
        return Client(self._daemon.address, self._tls, patience=5)

    async def ask(self, request: CertificateRequest) -> Result:
        async with self.open() as client:
            (result,) = [result async for result in client.issuance.issue([request])]
            return result

    async def issued(self, request: CertificateRequest) -> IssuedCertificate:
        result = await self.ask(request)
        assert isinstance(result, IssuedCertificate), result
        return result

    async def refused(self, request: CertificateRequest) -> Refusal:
        result = await self.ask(request)
        assert isinstance(result, Refusal), result
        return result

    async def serials(self, client: str = "") -> set[str]:
        async with self.open() as opened:
            return {entry.serial.hex() async for entry in opened.ledger.everything(Query(client=client))}


class Clients(NamedTuple):
    """A daemon's clients; the pinned one has two certificates, and the name in the first is b's."""

    daemon: RunningDaemon
    identity: str
    pinned: Known
    renamed: Known
    b: Known
    operator: Known


@pytest.fixture(scope="module")
def clients(make_fleet: Callable[[], Fleet]) -> Iterator[Clients]:
    fleet = make_fleet()
    key, ca = ec.generate_private_key(ec.SECP256R1()), OperatorCa(fleet)
    as_b, as_z = ca.issue("b", key=key), ca.issue("z", key=key)
    spki = certificate_of(as_b).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    identity = f"spki:{hashlib.sha256(spki).hexdigest()}"
    allow(fleet, "pinned", identity)
    b = new_client(fleet, "b")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield Clients(daemon, identity, *(Known(daemon, tls) for tls in (as_b, as_z, b, fleet.tls)))


async def order(clients: Clients, *who: str) -> str:
    async with clients.operator.open() as client:
        return (await client.batches.create(Batch(str(uuid.uuid4()), 5, IdScheme("uuid4"), clients=who))).name


async def test_who_bears_anothers_name_issues_in_its_own_batches_and_not_in_the_others(
    clients: Clients,
) -> None:
    for_b, for_pinned = await order(clients, "cn:b"), await order(clients, "pinned")
    refusal = await clients.pinned.refused(replace(new_request(), batch=for_b))
    assert (refusal.reason, refusal.message) == (
        "BATCH_CLIENT",
        f"pinned may not issue in the batch {for_b}",
    )
    assert (await clients.b.refused(replace(new_request(), batch=for_pinned))).reason == "BATCH_CLIENT"
    await clients.b.issued(replace(new_request(), batch=for_b))
    await clients.pinned.issued(replace(new_request(), batch=for_pinned))
    async with clients.pinned.open() as client:
        seen = {batch.name async for batch in client.batches.everything()}
        assert for_pinned in seen
        assert for_b not in seen
        with pytest.raises(NotFoundError):
            await client.batches.get(for_b)


async def test_what_a_pinned_client_was_issued_is_its_own_under_any_name_and_nobody_elses(
    clients: Clients,
) -> None:
    request = replace(new_request(), request_id=str(uuid.uuid4()))
    issued = await clients.pinned.issued(request)
    serial = issued.serial.hex()
    assert (await clients.renamed.issued(request)).serial == issued.serial
    await clients.b.issued(replace(new_request(), request_id=request.request_id))  # of its own request ids
    assert "issued to another client" in (await clients.b.refused(CertificateRequest(request.csr))).message
    for asked in ("", "pinned", clients.identity):
        assert serial in await clients.renamed.serials(asked)
    assert await clients.pinned.serials() == await clients.operator.serials("pinned")
    assert serial not in await clients.b.serials() | await clients.operator.serials("cn:b")
    assert await clients.b.serials() == await clients.operator.serials("b")
    for other in ("b", "cn:b"):
        with pytest.raises(NotAllowedError):
            await clients.pinned.serials(other)
    async with clients.operator.open() as client:
        assert (await client.ledger.by_serial(issued.serial))[0].client == clients.identity
        calls = [event async for event in client.access.events(AuditQuery("access.allowed", "pinned"))]
    assert calls
    assert {(event.client, json.loads(event.details)["policy_client"]) for event in calls} == {
        (clients.identity, "pinned")
    }


async def test_a_denied_name_denies_its_client_and_not_the_pinned_one_that_bears_it(clients: Clients) -> None:
    async with clients.operator.open() as operator:
        await operator.access.deny("cn:b", "lost")
        await clients.pinned.issued(new_request())
        async with clients.b.open() as client:
            with pytest.raises(NotAllowedError, match="denied"):
                await client.ledger.page(Query())
        await operator.access.allow("cn:b")
        with pytest.raises(RequestRefusedError, match="no client of the policy has the name cn:z"):
            await operator.access.deny("cn:z", "it would deny nobody")


async def test_a_conflict_tells_nothing_of_what_another_client_was_issued(clients: Clients) -> None:
    request = new_request()
    issued = await clients.b.issued(request)
    other_key = new_request(request.device_id)
    refusal = await clients.pinned.refused(other_key)
    assert (refusal.code, refusal.message) == (
        "ALREADY_EXISTS",
        "the device id or the public key belongs to another client's certificate",
    )
    assert issued.serial.hex() in (await clients.b.refused(other_key)).message
    assert issued.serial.hex() in (await clients.operator.refused(other_key)).message
    async with clients.operator.open() as operator:
        revoking = operator.revocation.revoke([ToRevoke(issued.serial)], Reason.SUPERSEDED)
        assert [isinstance(item, Revoked) async for item in revoking] == [True]
    again = await clients.pinned.refused(request)
    assert (again.code, again.message) == (refusal.code, refusal.message)
    assert "was revoked on" in (await clients.b.refused(request)).message


async def test_a_renamed_client_keeps_its_certificates_and_batches(clients: Clients) -> None:
    batch, request = await order(clients, "pinned"), new_request()
    issued = await clients.pinned.issued(request)
    policy = clients.daemon.fleet.folder / "policy.toml"
    entry = policy.read_text().replace("[clients.pinned]", '[clients.new]\nformerly = ["pinned"]')
    policy.write_text(entry)
    clients.daemon.process.send_signal(signal.SIGHUP)
    clients.daemon.wait_for("policy.loaded")
    assert (await clients.renamed.issued(request)).serial == issued.serial
    await clients.pinned.issued(replace(new_request(), batch=batch))
    assert issued.serial.hex() in await clients.pinned.serials()
    for name in ("new", "pinned"):
        assert await clients.pinned.serials() == await clients.operator.serials(name)
