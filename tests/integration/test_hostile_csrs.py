"""I5: one bad CSR costs one refusal, never its neighbours or the stream."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from typing import TypeAlias

import grpc
import pytest
from cryptography import x509
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from otahsm.client import CertificateRequest, Client, IssuedCertificate, Refusal
from otahsm.client.connection import open_channel
from otahsm.pki.csr import MAX_CSR_BYTES
from otahsm.v1 import issuance_pb2 as pb
from otahsm.v1 import issuance_pb2_grpc

from support.attacks.hostile import HOSTILE, of_size
from support.devices import new_request, new_requests
from support.harness import RunningDaemon

REQUESTS = 1000
Stub: TypeAlias = "issuance_pb2_grpc.IssuanceServiceAsyncStub"  # known to type checkers alone
REFUSED = ("INVALID_ARGUMENT", "BAD_REQUEST")


@pytest.fixture
async def stub(shared_daemon: RunningDaemon) -> AsyncIterator[Stub]:
    """The service without the client that keeps its rules for us."""
    async with open_channel(shared_daemon.address, shared_daemon.fleet.tls) as channel:
        yield issuance_pb2_grpc.IssuanceServiceStub(channel)


def message(*requests: CertificateRequest) -> pb.IssueCertificatesRequest:
    return pb.IssueCertificatesRequest(
        requests=[
            pb.CertificateRequest(request_id=item.request_id, device_id=item.device_id, csr=item.csr)
            for item in requests
        ]
    )


def with_id(request: CertificateRequest, request_id: str) -> CertificateRequest:
    return CertificateRequest(request.csr, request.device_id, request_id)


async def converse(
    stub: Stub,
    messages: Iterable[pb.IssueCertificatesRequest],
    results: list[pb.IssueResult] | None = None,
) -> list[pb.IssueResult]:
    """Send messages over one stream; return all results when it has ended normally."""
    results = [] if results is None else results
    async for response in stub.IssueCertificates(iter(messages)):
        results.extend(response.results)
    return results


def reason_hint_and_fields(status: Status) -> tuple[str, str, list[str]]:
    info, bad = ErrorInfo(), BadRequest()
    first, second = status.details
    assert first.Unpack(info)
    assert second.Unpack(bad)
    assert info.domain == "otahsm"
    return info.reason, info.metadata["hint"], [violation.field for violation in bad.field_violations]


def check_certificate(result: IssuedCertificate, root: x509.Certificate) -> None:
    certificate = x509.load_der_x509_certificate(result.chain[0])
    certificate.verify_directly_issued_by(root)
    assert [name.value for name in certificate.subject] == [result.request.device_id]
    assert certificate.public_key() == x509.load_der_x509_csr(result.request.csr).public_key()


async def test_hostile_csrs_in_a_stream_cost_one_refusal_each_and_their_neighbours_nothing(
    client: Client, shared_daemon: RunningDaemon
) -> None:
    bad = [
        CertificateRequest(case.build(), request_id=f"hostile-{round_}-{number}")
        for round_ in range(3)
        for number, case in enumerate(HOSTILE.values())
    ]
    good = new_requests(REQUESTS - len(bad))
    assert len(good) > len(bad) > 200
    requests = [*good, *bad]
    random.Random(5).shuffle(requests)  # noqa: S311 - the same order in every run

    results = [result async for result in client.issuance.issue(requests)]

    issued = [result for result in results if isinstance(result, IssuedCertificate)]
    refused = [result for result in results if isinstance(result, Refusal)]
    assert sorted(result.request.csr for result in issued) == sorted(request.csr for request in good)
    assert sorted(result.request.request_id for result in refused) == sorted(
        request.request_id for request in bad
    )
    assert {(refusal.code, refusal.reason) for refusal in refused} == {REFUSED}
    assert all(refusal.message and refusal.hint for refusal in refused)
    root = x509.load_pem_x509_certificate(shared_daemon.fleet.root_pem.read_bytes())
    for result in issued:
        check_certificate(result, root)
    assert len({result.serial for result in issued}) == len(issued)


async def test_each_refusal_names_its_field_on_the_wire(
    stub: Stub,
) -> None:
    cases = dict(enumerate(HOSTILE.values()))
    requests = [CertificateRequest(case.build(), request_id=f"wire-{n}") for n, case in cases.items()]
    results = await converse(stub, [message(*requests)])
    assert len(results) == len(requests)
    for result in results:
        case = cases[int(result.request_id.removeprefix("wire-"))]
        reason, hint, fields = reason_hint_and_fields(result.error)
        assert (reason, fields) == ("BAD_REQUEST", [case.field])
        assert hint
        assert result.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_oversized_csrs_cost_their_items_alone(client: Client) -> None:
    sizes = [MAX_CSR_BYTES + 1, 100_000, 1_000_000]
    largest = CertificateRequest(of_size(MAX_CSR_BYTES, "of-16-kib"), "of-16-kib")
    requests = [*(CertificateRequest(bytes(size)) for size in sizes), largest, new_request()]
    results = [result async for result in client.issuance.issue(requests)]
    refused = [result for result in results if isinstance(result, Refusal)]
    assert {(result.code, result.reason) for result in refused} == {REFUSED}
    assert sorted(len(result.request.csr) for result in refused) == sizes
    assert sum(isinstance(result, IssuedCertificate) for result in results) == 2


async def test_a_request_without_an_id_costs_one_item_of_its_stream(
    stub: Stub,
) -> None:
    nameless, *others = new_requests(3)
    named = [with_id(other, f"named-{number}") for number, other in enumerate(others)]
    for messages in (
        [message(named[0], nameless, named[1])],
        [message(nameless)],
        [message(nameless), message(*named)],
    ):
        results = await converse(stub, messages)
        assert len(results) == sum(len(item.requests) for item in messages)
        for result in results:
            assert result.HasField("error") == (result.request_id == "")
        (refusal,) = [result.error for result in results if not result.request_id]
        reason, hint, fields = reason_hint_and_fields(refusal)
        assert (reason, fields) == ("BAD_REQUEST", ["request_id"])
        assert hint


@pytest.mark.parametrize(
    ("request_id", "device_id", "field"),
    [
        ("x" * 129, "", "request_id"),
        ("with space", "", "request_id"),
        ("with\nnewline", "", "request_id"),
        ("ünïcode", "", "request_id"),
        ("another-device", "another", "device_id"),
    ],
)
async def test_a_bad_field_costs_its_item_alone(
    stub: Stub, request_id: str, device_id: str, field: str
) -> None:
    good = new_request()
    good = with_id(good, f"beside-{good.device_id}")
    bad = CertificateRequest(new_request().csr, device_id, request_id)
    results = {result.request_id: result for result in await converse(stub, [message(bad, good)])}
    assert results[good.request_id].HasField("certificate")
    assert reason_hint_and_fields(results[request_id].error)[2] == [field]


@pytest.mark.parametrize("count", [0, 257])
async def test_a_message_of_no_requests_or_too_many_ends_its_stream(stub: Stub, count: int) -> None:
    good = with_id(new_request(), f"before-{count}")
    flood = message(*(CertificateRequest(b"", request_id=f"flood-{n}") for n in range(count)))
    results: list[pb.IssueResult] = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await converse(stub, [message(good), flood], results)
    # What was read before the bad message is still answered.
    (result,) = results
    assert result.request_id == good.request_id
    assert result.HasField("certificate")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(count) in (raised.value.details() or "")
    trailers = dict(raised.value.trailing_metadata() or ())
    status = Status.FromString(bytes(trailers["grpc-status-details-bin"]))
    reason, hint, fields = reason_hint_and_fields(status)
    assert (reason, fields) == ("BAD_REQUEST", ["requests"])
    assert hint


async def test_a_message_of_256_requests_is_answered_in_full(
    stub: Stub,
) -> None:
    requests = [CertificateRequest(b"", request_id=f"empty-{n}") for n in range(255)]
    good = with_id(new_request(), "the-256th")
    results = await converse(stub, [message(*requests, good)])
    assert sorted(result.request_id for result in results) == sorted(
        item.request_id for item in (*requests, good)
    )
    assert [result.request_id for result in results if result.HasField("certificate")] == ["the-256th"]


async def test_a_hostile_csr_of_its_own_gets_a_status_with_details(
    stub: Stub,
) -> None:
    case = HOSTILE["asks for CA:TRUE"]
    request = pb.IssueCertificateRequest(request=pb.CertificateRequest(csr=case.build()))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.IssueCertificate(request)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailers = dict(raised.value.trailing_metadata() or ())
    status = Status.FromString(bytes(trailers["grpc-status-details-bin"]))
    assert reason_hint_and_fields(status)[2] == [case.field]
