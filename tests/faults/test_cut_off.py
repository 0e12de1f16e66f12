"""A client's certificate is stolen: how it is cut off, also on what it has open, and on all daemons."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from otahsm.client import AuditQuery, CertificateRequest, Client, ClientTls, IssuedCertificate
from otahsm.client.connection import open_channel
from otahsm.client.rpc_errors import from_rpc
from otahsm.errors import ClientDeniedError, NotAllowedError, NotFoundError, OtahsmError, RequestRefusedError
from otahsm.v1 import issuance_pb2, issuance_pb2_grpc

from support.devices import new_request, new_requests
from support.harness import Fleet, RunningDaemon, Stopwatch, running
from support.ledger_reader import certificates
from support.operators import OperatorCa, allow, certificate_of, new_client
from support.postgres import PostgresServer, on_postgres
from support.tokens.faulty import FaultyToken

GONE = "No such file or directory"
AT_MOST = 5.0  # seconds, as it is promised


class OpenStream:
    """A stream that a client keeps open, as gRPC has it."""

    def __init__(self, channel: grpc.aio.Channel, daemon: RunningDaemon) -> None:
        self._daemon = daemon
        stub: issuance_pb2_grpc.IssuanceServiceAsyncStub = issuance_pb2_grpc.IssuanceServiceStub(channel)
        self.call = stub.IssueCertificates()

    async def issue(self, *requests: CertificateRequest) -> list[Any]:
        """Send requests; return as many results."""
        messages = [
            issuance_pb2.CertificateRequest(request_id=item.device_id, csr=item.csr) for item in requests
        ]
        await self.call.write(issuance_pb2.IssueCertificatesRequest(requests=messages))
        results: list[Any] = []
        while len(results) < len(requests):
            response = await self.call.read()
            assert isinstance(response, issuance_pb2.IssueCertificatesResponse)
            results.extend(response.results)
        return results

    async def ends(self) -> tuple[str, str]:
        """Wait for its end; return code and reason."""
        waiting = Stopwatch(self._daemon)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await self.call.read()
        assert waiting.seconds < AT_MOST
        error = from_rpc(failure.value, "here")
        return error.code.name, error.reason


@contextlib.asynccontextmanager
async def stream(daemon: RunningDaemon, tls: ClientTls) -> AsyncIterator[OpenStream]:
    """Open a stream, and have a certificate issued in it."""
    async with open_channel(daemon.address, tls) as channel:
        opened = OpenStream(channel, daemon)
        (result,) = await opened.issue(new_request())
        assert result.HasField("certificate")
        yield opened


def access(daemon: RunningDaemon, tls: ClientTls | None = None) -> Client:
    return Client(daemon.address, tls or daemon.fleet.tls, patience=5)


def spki_of(tls: ClientTls) -> str:
    spki = certificate_of(tls).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"spki:{hashlib.sha256(spki).hexdigest()}"


def sha256_of(tls: ClientTls) -> str:
    return f"sha256:{certificate_of(tls).fingerprint(SHA256()).hex()}"


async def works(daemon: RunningDaemon, tls: ClientTls) -> bool:
    """Return whether a client gets a certificate."""
    async with Client(daemon.address, tls, patience=5) as client:
        try:
            return isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)
        except ClientDeniedError:
            return False


@pytest.fixture(scope="module")
def serving(make_fleet: Callable[[], Fleet]) -> Iterator[RunningDaemon]:
    """A daemon with CRLs, and a policy for clients named thief-N, bystander, operator and admin."""
    fleet = make_fleet()
    OperatorCa(fleet).revoke()
    fleet.edit('# client_crls = ["tls/operator-ca.crl"]', 'client_crls = ["tls/operator-ca.crl"]')
    for number in range(10):
        allow(fleet, f"thief-{number}", f"cn:thief-{number}")
    allow(fleet, "bystander", "cn:bystander")
    allow(fleet, "operator", "cn:operator", 'roles = ["operator"]')
    allow(fleet, "admin", 'cn:admin", "dns:boss.example', 'roles = ["admin"]')
    allow(fleet, "plants", "uri:spiffe://acme/plant/*")
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield daemon


def client_of(daemon: RunningDaemon, name: str, **terms: Any) -> ClientTls:
    return OperatorCa(daemon.fleet).issue(name, **terms)


async def test_who_is_denied_by_name_loses_its_open_stream_and_gets_no_other(serving: RunningDaemon) -> None:
    thief, bystander = client_of(serving, "thief-0"), client_of(serving, "bystander")
    async with stream(serving, thief) as stolen, stream(serving, bystander) as honest:
        async with access(serving) as admin:
            began = Stopwatch(serving)
            await admin.access.deny("cn:thief-0", "laptop stolen")
        assert await stolen.ends() == ("PERMISSION_DENIED", "CUT_OFF")
        assert began.seconds < AT_MOST
        assert not await works(serving, thief)
        assert not await works(serving, client_of(serving, "thief-0"))  # nor with another certificate
        (result,) = await honest.issue(new_request())
        assert result.HasField("certificate")


async def test_an_admin_lets_in_again_who_was_cut_off(serving: RunningDaemon) -> None:
    thief = client_of(serving, "thief-1")
    async with access(serving) as admin:
        await admin.access.deny("cn:thief-1", "lost")
        assert not await works(serving, thief)
        assert ("cn:thief-1", "lost", "cn:quickstart") in {item[:3] for item in await admin.access.denied()}
        first = next(item for item in await admin.access.denied() if item.subject == "cn:thief-1")
        again = await admin.access.deny("cn:thief-1", "another reason")
        assert again == first  # as it was said first
        await admin.access.allow("cn:thief-1")
        assert await works(serving, thief)
        with pytest.raises(NotFoundError, match="is not denied"):
            await admin.access.allow("cn:thief-1")
        events = [event async for event in admin.access.events(AuditQuery("client."))]
    of_this = [event.name for event in events if "cn:thief-1" in event.details]
    assert of_this == ["client.cut_off", "client.let_in"]


async def test_one_certificate_is_denied_and_the_client_s_others_are_not(serving: RunningDaemon) -> None:
    stolen, other = client_of(serving, "thief-2"), client_of(serving, "thief-2")
    async with access(serving) as admin, stream(serving, stolen) as opened:
        await admin.access.deny(sha256_of(stolen))
        assert await opened.ends() == ("PERMISSION_DENIED", "CUT_OFF")
    assert not await works(serving, stolen)
    assert await works(serving, other)


async def test_a_key_is_denied_whatever_certificate_it_gets(serving: RunningDaemon) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    stolen, renewed = client_of(serving, "thief-3", key=key), client_of(serving, "bystander", key=key)
    async with access(serving) as admin:
        await admin.access.deny(spki_of(stolen))
    assert not await works(serving, stolen)
    assert not await works(serving, renewed)
    assert await works(serving, client_of(serving, "thief-3"))


async def test_who_is_on_the_crl_loses_its_open_stream(serving: RunningDaemon) -> None:
    thief, bystander = client_of(serving, "thief-4"), client_of(serving, "bystander")
    ca = OperatorCa(serving.fleet)
    async with stream(serving, thief) as stolen, stream(serving, bystander) as honest:
        began = Stopwatch(serving)
        ca.revoke(thief)
        assert await stolen.ends() == ("PERMISSION_DENIED", "CUT_OFF")
        assert began.seconds < AT_MOST
        (result,) = await honest.issue(new_request())
        assert result.HasField("certificate")
    assert not await works(serving, thief)
    loaded = len([event for event in serving.events if event["event"] == "crl.loaded"])
    ca.revoke()  # a CRL that names nobody any more
    await asyncio.to_thread(serving.wait_for, "crl.loaded", loaded + 1)
    assert await works(serving, thief)


async def test_a_crl_that_is_no_good_is_refused_and_the_old_one_stays(serving: RunningDaemon) -> None:
    thief = client_of(serving, "thief-5")
    ca = OperatorCa(serving.fleet)
    loaded = len([event for event in serving.events if event["event"] == "crl.loaded"])
    path = ca.revoke(thief)
    await asyncio.to_thread(serving.wait_for, "crl.loaded", loaded + 1)
    another_ca = OperatorCa(serving.fleet, key=ec.generate_private_key(ec.SECP256R1()))
    for spoil in (
        lambda: path.write_text("no CRL"),
        another_ca.revoke,
        lambda: ca.revoke(ends=-timedelta(hours=1)),
        lambda: ca.revoke(begins=-timedelta(hours=3)),  # one that was there before the thief was on it
        lambda: ca.revoke(begins=timedelta(hours=1)),
        path.unlink,
    ):
        refused = len([event for event in serving.events if event["event"] == "crl.refused"])
        spoil()
        await asyncio.to_thread(serving.wait_for, "crl.refused", refused + 1)
        assert not await works(serving, thief)
    await asyncio.to_thread(serving.wait_for, "files.refused", message=f"can't read the CRL {path}: {GONE}")
    async with access(serving) as admin:
        failing = {job.name: job.failing_reason for job in (await admin.issuance.authority()).jobs}
        assert GONE in failing["reloading"]
        loaded = len([event for event in serving.events if event["event"] == "crl.loaded"])
        ca.revoke()
        await asyncio.to_thread(serving.wait_for, "crl.loaded", loaded + 1)
        await asyncio.to_thread(serving.wait_for, "job.recovered", job="reloading")
        assert not any(job.failing_reason for job in (await admin.issuance.authority()).jobs)


async def test_a_stream_ends_with_the_certificate_that_opened_it(serving: RunningDaemon) -> None:
    short = client_of(serving, "bystander", ends=timedelta(seconds=4))
    async with stream(serving, short) as opened:
        assert await opened.ends() == ("PERMISSION_DENIED", "CUT_OFF")


async def test_nobody_undoes_what_was_done_to_it_or_cuts_off_itself(serving: RunningDaemon) -> None:
    thief = client_of(serving, "thief-6")
    async with access(serving) as admin:
        await admin.access.deny("cn:thief-6")
        with pytest.raises(NotAllowedError, match="a client can't deny itself"):
            await admin.access.deny("cn:quickstart")
    async with access(serving, thief) as stolen:
        with pytest.raises(NotAllowedError):
            await stolen.access.allow("cn:thief-6")
        with pytest.raises(NotAllowedError):
            await stolen.access.denied()


async def test_an_operator_cuts_off_clients_and_no_admin(serving: RunningDaemon) -> None:
    operator_tls = client_of(serving, "operator")
    async with access(serving, operator_tls) as operator:
        for subject in (
            "cn:admin",
            "dns:boss.example",
            "cn:quickstart",
            sha256_of(client_of(serving, "admin")),
            f"spki:{'0' * 64}",
        ):
            with pytest.raises(NotAllowedError, match="takes the role admin"):
                await operator.access.deny(subject)
        for allow_unknown_name, expected in ((False, RequestRefusedError), (True, NotAllowedError)):
            with pytest.raises(expected, match="no client of the policy has"):
                await operator.access.deny("cn:thief-77", allow_unknown_name=allow_unknown_name)
        await operator.access.deny("cn:thief-7")
        with pytest.raises(NotAllowedError, match="AllowClient"):
            await operator.access.allow("cn:thief-7")
        with pytest.raises(NotAllowedError, match="ListAuditEvents"):
            _ = [event async for event in operator.access.events(AuditQuery())]
    assert not await works(serving, client_of(serving, "thief-7"))


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "thief",
        "cn:",
        "sha256:AB",
        f"sha256:{'A' * 64}",
        "spki:",
        "cn:a\nb",
        "cn:" + "x" * 600,
        "email:a@b",
        "cn:thief",
        "cn:thief-*",
        "uri:spiffe://acme/plant/*",
        "uri:spiffe://acme/plant",
    ],
)
async def test_a_subject_that_names_nobody_is_refused(serving: RunningDaemon, subject: str) -> None:
    async with access(serving) as admin:
        with pytest.raises(RequestRefusedError):
            await admin.access.deny(subject)


async def test_whom_a_denial_reaches_is_said(serving: RunningDaemon) -> None:
    plant, nobody = "uri:spiffe://acme/plant/7", "cn:nobody-yet"
    async with access(serving) as admin:
        for subject, client, identity in (
            (plant, "plants", "uri:spiffe://acme/plant/*"),
            (nobody, "", ""),
            (f"spki:{'1' * 64}", "", ""),
        ):
            denied = await admin.access.deny(subject, allow_unknown_name=subject == nobody)
            assert (denied.policy_client, denied.policy_identity) == (client, identity)
            assert denied in await admin.access.denied()


async def test_a_call_that_waits_is_cut_off_too(faulty: FaultyToken) -> None:
    tls = new_client(faulty.fleet, "thief")
    faulty.fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 60.0")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        faulty.misbehave("C_Sign=hang")
        async with open_channel(daemon.address, tls) as channel:
            stub: issuance_pb2_grpc.IssuanceServiceAsyncStub = issuance_pb2_grpc.IssuanceServiceStub(channel)
            request = issuance_pb2.CertificateRequest(csr=new_request().csr)
            call = stub.IssueCertificate(issuance_pb2.IssueCertificateRequest(request=request))
            await asyncio.to_thread(daemon.wait_for, "access.allowed", client="cn:thief")
            async with access(daemon) as admin:
                await admin.access.deny("cn:thief")
            waiting = Stopwatch(daemon)
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert waiting.seconds < AT_MOST
        faulty.misbehave()


async def test_what_a_client_still_had_waiting_is_not_issued_after_it_was_cut_off(
    faulty: FaultyToken,
) -> None:
    """A thief's requests in the queue end with it: a slow token leaves hundreds of them there."""
    tls = new_client(faulty.fleet, "thief")
    faulty.fleet.edit("batch_size = 128", "batch_size = 4")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        faulty.misbehave("slow")
        requests = new_requests(1000)
        async with Client(daemon.address, tls, patience=5) as thief, access(daemon) as admin:
            got = 0
            with contextlib.suppress(OtahsmError):
                async for result in thief.issuance.issue(requests):
                    got += isinstance(result, IssuedCertificate)
                    if got == 20:
                        await admin.access.deny("cn:thief")
        assert daemon.stop() == 0
    # What was in the cycle by then is finished: five batches of 4 at most.
    assert 20 <= len(certificates(faulty.fleet)) < 300


async def test_who_is_cut_off_at_one_daemon_is_cut_off_at_all_and_stays_so(
    make_fleet: Callable[[], Fleet], postgres_server: PostgresServer
) -> None:
    fleet = on_postgres(make_fleet(), postgres_server)
    thief = new_client(fleet, "thief")
    with running(fleet) as one, running(fleet) as other:
        for daemon in (one, other):
            daemon.wait_for("health.changed", serving=True)
        async with stream(other, thief) as opened, access(one) as admin:
            began = Stopwatch(one, other)
            await admin.access.deny("cn:thief")
            assert await opened.ends() == ("PERMISSION_DENIED", "CUT_OFF")
            assert began.seconds < AT_MOST
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        assert not await works(daemon, thief)
