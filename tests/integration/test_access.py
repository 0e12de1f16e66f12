"""Who may ask the daemon for what: what a client with a good certificate still can't do."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otahsm.access import Call
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
)
from otahsm.client.connection import open_channel
from otahsm.daemon.edge import METHODS
from otahsm.errors import NotAllowedError, NotFoundError
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc, ledger_pb2, ledger_pb2_grpc

from support.devices import new_request
from support.harness import READY_SECONDS, Fleet, RunningDaemon, running
from support.operators import ISSUER, OperatorCa, allow, certificate_of, new_client

ROLES = ("issuer", "auditor", "operator", "admin")


class Guarded:
    """A daemon with a policy, and its clients."""

    def __init__(self, daemon: RunningDaemon, clients: dict[str, ClientTls]) -> None:
        self.daemon = daemon
        self.clients = clients
        self.ca = OperatorCa(daemon.fleet)

    async def ask(
        self, tls: ClientTls | str, *requests: CertificateRequest, profile: str = ""
    ) -> list[Result]:
        async with Client(self.daemon.address, self.tls(tls), patience=5) as client:
            return await all_of(client, *requests, profile=profile)

    async def one(self, tls: ClientTls | str, request: CertificateRequest, profile: str = "") -> Result:
        (result,) = await self.ask(tls, request, profile=profile)
        return result

    def tls(self, tls: ClientTls | str) -> ClientTls:
        return self.clients[tls] if isinstance(tls, str) else tls

    async def refused(self, tls: ClientTls | str) -> str:
        """Ask for a certificate, which must be refused as a whole; return why."""
        return await why_refused(self.ask(tls, new_request()))

    def open(self, tls: str) -> Client:
        return Client(self.daemon.address, self.clients[tls], patience=5)


@pytest.fixture(scope="module")
def guarded(make_fleet: Callable[[], Fleet]) -> Iterator[Guarded]:
    fleet = make_fleet()
    fleet.edit("[profiles.ota-connect]", "[profiles.other]\n\n[profiles.ota-connect]")
    clients = {
        "build": new_client(
            fleet, "build", 'roles = ["issuer"]\nprofiles = ["ota-connect"]\ndevice_ids = "b-[0-9a-f-]+"'
        ),
        "line": new_client(fleet, "line", f'{ISSUER}\nbatches = "plant-2-.*"'),
        "other": new_client(fleet, "other", 'roles = ["issuer"]\nprofiles = ["other"]'),
        "late": new_client(fleet, "late", f"{ISSUER}\nuntil = 2020-01-01T00:00:00Z"),
        "quickstart": fleet.tls,
    }
    for role in ROLES[1:]:
        clients[role] = new_client(fleet, role, f'roles = ["{role}"]')
    clients["issuer"] = new_client(fleet, "issuer", ISSUER)
    allow(fleet, "spiffe", "uri:spiffe://acme/line/*")
    allow(fleet, "named", "dns:build.acme.example")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield Guarded(daemon, clients)


async def all_of(client: Client, *requests: CertificateRequest, profile: str = "") -> list[Result]:
    return [result async for result in client.issuance.issue(requests, profile=profile)]


async def why_refused(asked: Awaitable[list[Result]]) -> str:
    """Ask for a certificate, which must be refused as a whole."""
    try:
        (result,) = await asked
    except NotAllowedError as error:  # while the client still had something to ask
        return error.message
    return denied(result)


def device(prefix: str = "b") -> CertificateRequest:
    return new_request(f"{prefix}-{uuid.uuid4()}")


def denied(result: Result) -> str:
    assert isinstance(result, Refusal)
    assert (result.code, result.reason) == ("PERMISSION_DENIED", "NOT_ALLOWED")
    return result.message


async def test_a_certificate_of_the_right_ca_alone_gives_nothing(guarded: Guarded) -> None:
    stranger = guarded.ca.issue("stranger")
    assert "the policy has no client cn:stranger" in await guarded.refused(stranger)


@pytest.mark.parametrize(
    ("common_name", "names", "said"),
    [
        ("", [], "has no client sha256:"),
        ("build", [x509.DNSName("elsewhere.example")], "has no client dns:elsewhere.example"),
        ("build", [x509.UniformResourceIdentifier("spiffe://acme/x")], "has no client uri:spiffe://acme/x"),
        ("Build", [], "has no client cn:Build"),
        ("x", [x509.UniformResourceIdentifier("spiffe://acme/line")], "has no client uri:"),
        ("x", [x509.UniformResourceIdentifier("spiffe://acme/lines/1")], "has no client uri:"),
        (
            "x",
            [
                x509.UniformResourceIdentifier("spiffe://acme/line/1"),
                x509.UniformResourceIdentifier("spiffe://acme/line/2"),
            ],
            "has no client",
        ),
        ("x", [x509.DNSName("build.acme.example.evil.example")], "has no client dns:"),
        ("build\0.evil", [], "has no client cn-sha256:"),
        ("x", [x509.UniformResourceIdentifier("spiffe://acme/" + "a" * 8000)], "has no client uri-sha256:"),
    ],
)
async def test_a_name_that_is_only_like_a_client_s_gives_nothing(
    guarded: Guarded, common_name: str, names: list[x509.GeneralName], said: str
) -> None:
    assert said in await guarded.refused(guarded.ca.issue(common_name, names))


@pytest.mark.parametrize(
    "raw_names",
    [
        bytes.fromhex("30048202fffe"),  # a DNS name that is no ASCII
        bytes.fromhex("30048602fffe"),  # a URI that is none
        bytes.fromhex("30028200"),  # an empty name
        bytes.fromhex("3004880201ff"),  # a registered id of a kind that nobody has
        b"\xff\xff",
    ],
)
async def test_a_certificate_that_can_not_be_read_is_nobody_s(guarded: Guarded, raw_names: bytes) -> None:
    tls = guarded.ca.issue("build", raw_names=raw_names)
    async with open_channel(guarded.daemon.address, tls) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await cast(Any, channel.unary_unary("/otahsm.v1.AuthorityService/GetAuthority"))(
                b"", timeout=READY_SECONDS
            )
    # Either TLS does not take it, or it is known by its fingerprint, which is nobody's.
    assert failure.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED}
    assert "Error" not in (failure.value.details() or "")


@pytest.mark.parametrize(
    "names",
    [
        [x509.UniformResourceIdentifier("spiffe://acme/line/1")],
        [x509.UniformResourceIdentifier("spiffe://acme/line/1/station/2"), x509.DNSName("other.example")],
        [x509.DNSName("build.acme.example")],
    ],
)
async def test_a_client_is_known_by_its_uri_or_its_dns_name(
    guarded: Guarded, names: list[x509.GeneralName]
) -> None:
    assert isinstance(await guarded.one(guarded.ca.issue("x", names), device()), IssuedCertificate)


async def test_a_pinned_key_is_a_client_under_any_name_and_another_key_is_not(fleet: Fleet) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = OperatorCa(fleet)
    one, renamed, other = ca.issue("a", key=key), ca.issue("b", key=key), ca.issue("a")
    spki = certificate_of(one).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    allow(fleet, "pinned", f"spki:{hashlib.sha256(spki).hexdigest()}")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        guarded = Guarded(daemon, {})
        assert isinstance(await guarded.one(one, new_request()), IssuedCertificate)
        assert isinstance(await guarded.one(renamed, new_request()), IssuedCertificate)
        assert "has no client cn:a" in await guarded.refused(other)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_make_its_calls_and_no_other(guarded: Guarded, role: str) -> None:
    """Ask with empty messages: what is let in is refused for that, or answered; what is not, is denied."""
    async with open_channel(guarded.daemon.address, guarded.clients[role]) as channel:
        for method, known in METHODS.items():
            call = known.callers
            if not isinstance(call, Call):
                continue
            stream = known.gives_stream
            make: Any = channel.stream_stream if stream else channel.unary_unary
            try:
                if stream:
                    asked = make(method)()
                    await asked.done_writing()
                    assert await asked.read() is grpc.aio.EOF
                    code = await asked.code()
                else:
                    await make(method)(b"", timeout=READY_SECONDS)
                    code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                code = error.code()
            may = role in call.roles or (call.own and role == "issuer")
            assert (code is not grpc.StatusCode.PERMISSION_DENIED) == may, (role, method, code)


async def test_a_call_that_does_not_exist_is_nobody_s(guarded: Guarded) -> None:
    async with open_channel(guarded.daemon.address, guarded.clients["quickstart"]) as channel:
        for method in ("/otahsm.v1.LedgerService/Erase", "/otahsm.v2.LedgerService/GetCertificate", "/x"):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await cast(Any, channel.unary_unary(method))(b"")
            assert failure.value.code() in {
                grpc.StatusCode.UNIMPLEMENTED,
                grpc.StatusCode.PERMISSION_DENIED,
            }


async def test_a_stranger_is_not_even_told_which_calls_there_are(guarded: Guarded) -> None:
    async with open_channel(guarded.daemon.address, guarded.ca.issue("stranger")) as channel:
        call: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call.read()
        assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_issuer_gets_nothing_under_a_profile_that_is_not_its(guarded: Guarded) -> None:
    assert "under the profile 'other'" in denied(await guarded.one("build", device(), "other"))
    # and an empty name is that of the default profile
    assert "under the profile 'ota-connect'" in denied(await guarded.one("other", device()))
    assert isinstance(await guarded.one("other", device(), "other"), IssuedCertificate)


async def test_an_issuer_gets_nothing_for_a_device_that_is_not_its(guarded: Guarded) -> None:
    foreign = device("c")
    assert "for the device id 'c-" in denied(await guarded.one("build", foreign))
    unnamed = CertificateRequest(foreign.csr)  # the id is in the CSR alone
    assert "for the device id 'c-" in denied(await guarded.one("build", unnamed))
    assert isinstance(await guarded.one("quickstart", foreign), IssuedCertificate)  # and it was not spoilt


async def test_a_request_that_is_denied_costs_its_neighbours_nothing(guarded: Guarded) -> None:
    requests = [device("b"), device("c"), device("b"), device("c")]
    results = {result.request.device_id: result for result in await guarded.ask("build", *requests)}
    for request in requests:
        result = results[request.device_id]
        assert isinstance(result, IssuedCertificate) == request.device_id.startswith("b")


async def test_an_issuer_with_batches_issues_in_these_alone(guarded: Guarded) -> None:
    name = f"plant-2-{uuid.uuid4()}"
    async with guarded.open("operator") as operator:
        await operator.batches.create(Batch(name, 3, IdScheme("uuid4")))
        await operator.batches.create(Batch(f"plant-3-{name}", 3, IdScheme("uuid4")))
    assert "outside of a batch" in denied(await guarded.one("line", device()))
    request = device()
    assert "in the batch 'plant-3-" in denied(
        await guarded.one("line", CertificateRequest(request.csr, batch=f"plant-3-{name}"))
    )
    assert isinstance(
        await guarded.one("line", CertificateRequest(request.csr, batch=name)), IssuedCertificate
    )
    async with guarded.open("line") as line:
        assert (await line.batches.get(name)).name == name
        with pytest.raises(NotFoundError):
            await line.batches.get(f"plant-3-{name}")


async def test_a_client_whose_time_is_over_gets_nothing(guarded: Guarded) -> None:
    assert "expired on 2020-01-01 00:00:00 UTC" in await guarded.refused("late")


async def test_one_certificate_at_a_time_is_held_to_the_same_policy(guarded: Guarded) -> None:
    async with open_channel(guarded.daemon.address, guarded.clients["build"]) as channel:
        stub: issuance_pb2_grpc.IssuanceServiceAsyncStub = issuance_pb2_grpc.IssuanceServiceStub(channel)
        request = issuance_pb2.CertificateRequest(csr=device("c").csr)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.IssueCertificate(issuance_pb2.IssueCertificateRequest(request=request))
        assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_does_not_get_what_another_was_issued(guarded: Guarded) -> None:
    request = CertificateRequest(device("x").csr, request_id=str(uuid.uuid4()))
    first = await guarded.one("issuer", request)
    assert isinstance(first, IssuedCertificate)
    named = guarded.ca.issue("x", [x509.DNSName("build.acme.example")])
    for replay in (request, CertificateRequest(request.csr)):  # by its id, and by its content
        assert "issued to another client" in denied(await guarded.one(named, replay))
    again = await guarded.one("issuer", request)
    assert isinstance(again, IssuedCertificate)
    assert again.replayed
    assert again.chain == first.chain


async def test_another_certificate_of_the_same_client_gets_what_it_was_issued(guarded: Guarded) -> None:
    one, other = (
        guarded.ca.issue("x", [x509.UniformResourceIdentifier(f"spiffe://acme/line/{n}")]) for n in (1, 2)
    )
    request = device()
    first, again = await guarded.one(one, request), await guarded.one(other, request)
    assert isinstance(first, IssuedCertificate)
    assert isinstance(again, IssuedCertificate)
    assert again.chain == first.chain


async def test_who_is_denied_while_it_writes_learns_why_each_time(guarded: Guarded) -> None:
    # Without patience: gRPC's own error, which is a broken connection, would be the answer.
    async with Client(guarded.daemon.address, guarded.clients["auditor"], patience=0) as client:
        for _ in range(100):
            assert "lacks the role issuer" in await why_refused(all_of(client, new_request()))


async def test_a_client_does_not_see_what_others_were_issued(guarded: Guarded) -> None:
    result = await guarded.one("issuer", device("x"))
    assert isinstance(result, IssuedCertificate)
    async with guarded.open("build") as build, guarded.open("issuer") as issuer:
        with pytest.raises(NotFoundError):
            await build.ledger.by_serial(result.serial)
        with pytest.raises(NotFoundError):
            await build.ledger.by_device(result.device_id)
        with pytest.raises(NotAllowedError):
            await build.ledger.page(Query(client="cn:issuer"))
        with pytest.raises(NotAllowedError):
            await build.ledger.page(Query(client="cn:issuer", newest_first=True))
        with pytest.raises(NotAllowedError):
            await build.ledger.counts(Query())
        for query in (Query(), Query(newest_first=True)):
            seen = [entry async for entry in build.ledger.everything(query)]
            assert {entry.client for entry in seen} <= {"cn:build"}
        assert (await issuer.ledger.by_serial(result.serial))[0].device_id == result.device_id
        mine = [entry async for entry in issuer.ledger.everything(Query())]
        assert result.serial in {entry.serial for entry in mine}
        assert {entry.client for entry in mine} == {"cn:issuer"}
        newest, _ = await issuer.ledger.page(Query(newest_first=True), size=1)
        assert newest == mine[-1:]
    async with guarded.open("auditor") as auditor:
        assert (await auditor.ledger.by_device(result.device_id))[0].client == "cn:issuer"


async def test_a_page_token_of_another_client_s_gives_nothing_of_its(guarded: Guarded) -> None:
    for _ in range(3):
        assert isinstance(await guarded.one("issuer", device("x")), IssuedCertificate)
    async with guarded.open("issuer") as issuer:
        _, token = await issuer.ledger.page(Query(), size=1)
    async with open_channel(guarded.daemon.address, guarded.clients["build"]) as channel:
        stub: ledger_pb2_grpc.LedgerServiceAsyncStub = ledger_pb2_grpc.LedgerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.ListCertificates(ledger_pb2.ListCertificatesRequest(page_token=token))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_gets_no_proof_of_what_others_were_issued(guarded: Guarded) -> None:
    result = await guarded.one("issuer", device("x"))
    assert isinstance(result, IssuedCertificate)
    async with guarded.open("build") as build:
        with pytest.raises(NotFoundError):
            await build.transparency.prove_inclusion(result.serial)
    async with guarded.open("issuer") as issuer:
        assert (await issuer.transparency.prove_inclusion(result.serial)).startswith(
            b"c2sp.org/tlog-proof@v1"
        )


async def test_what_was_denied_is_in_the_audit_trail_once_and_counted(guarded: Guarded) -> None:
    name = f"stranger-{uuid.uuid4()}"
    stranger = guarded.ca.issue(name)
    for _ in range(3):
        await guarded.refused(stranger)
    async with guarded.open("auditor") as auditor:
        events = [event async for event in auditor.access.events(AuditQuery("access.denied", f"cn:{name}"))]
    assert [event.occurrences for event in events] == [1]
    details = json.loads(events[0].details)
    assert details["call"].endswith("IssueCertificates")
    assert details["reason"] == "NOT_ALLOWED"
