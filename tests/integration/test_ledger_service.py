"""`LedgerService` over the wire: what it answers, and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from otahsm.client import CertificateRequest, Client, IssuedCertificate, Query
from otahsm.client.connection import open_channel
from otahsm.errors import NotFoundError, RequestRefusedError
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import access_pb2, access_pb2_grpc, device_pb2, device_pb2_grpc, ledger_pb2_grpc
from otahsm.v1 import ledger_pb2 as pb

from support.devices import issue_all, new_request, new_requests
from support.harness import Fleet, RunningDaemon, running

LONG_AGO: Final = datetime(1999, 12, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def busy(make_fleet: Callable[[], Fleet]) -> Iterator[RunningDaemon]:
    """A daemon that has a ledger of this module's own."""
    with running(make_fleet()) as daemon:
        daemon.wait_for("health.changed", serving=True)
        yield daemon


@pytest.fixture
async def auditor(busy: RunningDaemon) -> AsyncIterator[Client]:
    async with Client(busy.address, busy.fleet.tls, patience=5) as client:
        yield client


@pytest.fixture
async def stub(busy: RunningDaemon) -> AsyncIterator[Any]:
    async with open_channel(busy.address, busy.fleet.tls) as channel:
        yield ledger_pb2_grpc.LedgerServiceStub(channel)


@pytest.fixture
async def stubs(stub: Any, busy: RunningDaemon) -> AsyncIterator[list[Any]]:
    """The services that look for texts in the ledger."""
    async with open_channel(busy.address, busy.fleet.tls) as channel:
        yield [stub, device_pb2_grpc.DeviceServiceStub(channel), access_pb2_grpc.AccessServiceStub(channel)]


async def issue(busy: RunningDaemon, requests: list[CertificateRequest]) -> list[IssuedCertificate]:
    async with busy.client() as client:
        issued, refused = await issue_all(client, requests)
    assert not refused
    return issued


async def test_what_was_issued_is_found_by_device_and_by_serial(busy: RunningDaemon, auditor: Client) -> None:
    (issued,) = await issue(busy, [new_request()])
    entry, chain = await auditor.ledger.by_device(issued.device_id)
    assert (entry, chain) == await auditor.ledger.by_device(issued.device_id, "ota-connect")
    assert (entry, chain) == await auditor.ledger.by_serial(issued.serial)
    assert chain == issued.chain
    assert (entry.serial, entry.status, entry.certificate) == (issued.serial, "issued", issued.chain[0])
    assert (entry.device_id, entry.profile, entry.client) == (
        issued.device_id,
        "ota-connect",
        "cn:quickstart",
    )
    assert (entry.not_before, entry.not_after) == (issued.not_before, issued.not_after)
    assert entry.issued_at is not None
    assert LONG_AGO < entry.intended_at <= entry.issued_at <= datetime.now(UTC)
    assert (entry.voided_at, entry.void_reason) == (None, "")


async def test_leading_zeros_of_a_serial_number_do_not_count(busy: RunningDaemon, stub: Any) -> None:
    (issued,) = await issue(busy, [new_request()])
    octets = bytes(3) + SerialNumber(issued.serial).octets
    found = await stub.GetCertificate(pb.GetCertificateRequest(serial_number=octets))
    assert found.certificate.device_id == issued.device_id


async def test_what_is_not_there_is_not_found(auditor: Client, busy: RunningDaemon) -> None:
    (issued,) = await issue(busy, [new_request()])
    with pytest.raises(NotFoundError, match="no certificate with serial number 1f"):
        await auditor.ledger.by_serial(SerialNumber(0x1F))
    with pytest.raises(NotFoundError, match="device id 'nobody'"):
        await auditor.ledger.by_device("nobody")
    with pytest.raises(NotFoundError, match="profile 'another'"):
        await auditor.ledger.by_device(issued.device_id, "another")


async def test_pages_hold_everything_once_oldest_first(busy: RunningDaemon, auditor: Client) -> None:
    issued = {item.serial for item in await issue(busy, new_requests(25))}
    seen: list[int] = []
    token = ""
    while True:
        page, token = await auditor.ledger.page(Query(), token, size=7)
        assert len(page) <= 7
        assert all(entry.certificate == b"" for entry in page)
        seen += [entry.serial for entry in page]
        if not token:
            break
    assert seen == sorted(set(seen))
    assert issued <= set(seen)
    full, _ = await auditor.ledger.page(Query(), size=5, full=True)
    assert all(entry.certificate for entry in full)


async def test_the_newest_come_first_where_that_is_asked_for(busy: RunningDaemon, auditor: Client) -> None:
    issued = {item.serial for item in await issue(busy, new_requests(10))}
    oldest_first = [entry async for entry in auditor.ledger.everything(Query())]
    query = Query(newest_first=True)
    page, token = await auditor.ledger.page(query, size=10)
    assert {entry.serial for entry in page} == issued
    seen = list(page)
    while token:
        page, token = await auditor.ledger.page(query, token, size=3)
        seen += page
    assert seen == oldest_first[::-1]
    assert seen == [entry async for entry in auditor.ledger.everything(query)]


async def test_a_time_is_a_range_that_begins_and_ends_to_the_millisecond(
    busy: RunningDaemon, auditor: Client
) -> None:
    await issue(busy, new_requests(3))
    everything = [entry async for entry in auditor.ledger.everything(Query())]
    for moment in {entry.intended_at for entry in everything}:
        after = [entry async for entry in auditor.ledger.everything(Query(after=moment))]
        before = [entry async for entry in auditor.ledger.everything(Query(before=moment))]
        assert after == [entry for entry in everything if entry.intended_at >= moment]
        assert before + after == everything


async def test_counts_are_those_of_what_is_listed(busy: RunningDaemon, auditor: Client) -> None:
    await issue(busy, new_requests(3))
    everything = [entry async for entry in auditor.ledger.everything(Query())]
    counts = await auditor.ledger.counts(Query())
    assert sum(count.certificates for count in counts) == len(everything)
    assert {(count.client, count.policy_client, count.profile, count.status) for count in counts} == {
        ("cn:quickstart", "quickstart", "ota-connect", "issued")
    }
    assert await auditor.ledger.counts(Query(before=LONG_AGO)) == []


def timestamp(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


HOSTILE: Final = [
    ("GetCertificate", pb.GetCertificateRequest(), "key"),
    ("GetCertificate", pb.GetCertificateRequest(device_id=""), "key"),
    ("GetCertificate", pb.GetCertificateRequest(serial_number=b""), "serial_number"),
    ("GetCertificate", pb.GetCertificateRequest(serial_number=bytes(20)), "serial_number"),
    ("GetCertificate", pb.GetCertificateRequest(serial_number=b"\1" * 21), "serial_number"),
    ("GetCertificate", pb.GetCertificateRequest(serial_number=b"\1", profile="p"), "profile"),
    ("GetCertificate", pb.GetCertificateRequest(device_id="a\0b"), "device_id"),
    ("GetCertificate", pb.GetCertificateRequest(device_id="a" * 1025), "device_id"),
    ("ListCertificates", pb.ListCertificatesRequest(page_size=-1), "page_size"),
    ("ListCertificates", pb.ListCertificatesRequest(page_token="' OR 1=1 --"), "page_token"),
    ("ListCertificates", pb.ListCertificatesRequest(page_token="A" * 40), "page_token"),
    ("ListCertificates", pb.ListCertificatesRequest(page_token="A" * 50_000), "page_token"),
    ("ListCertificates", pb.ListCertificatesRequest(client="\0"), "client"),
    ("ListCertificates", pb.ListCertificatesRequest(status=99), "status"),  # type: ignore[arg-type]
    ("ListCertificates", pb.ListCertificatesRequest(view=-7), "view"),  # type: ignore[arg-type]
    ("ListCertificates", pb.ListCertificatesRequest(issued_after=timestamp(1 << 62)), "issued_after"),
    ("ListCertificates", pb.ListCertificatesRequest(issued_before=timestamp(0, -1)), "issued_before"),
    ("GetLedgerStats", pb.GetLedgerStatsRequest(issued_before=timestamp(0, 1 << 30)), "issued_before"),
    # PostgreSQL takes no NUL; a call must not look like a ledger that is away.
    ("ResetDevice", device_pb2.ResetDeviceRequest(device_id="a\0b"), "device_id"),
    ("ResetDevice", device_pb2.ResetDeviceRequest(device_id="a", profile="\0"), "profile"),
    ("AllowClient", access_pb2.AllowClientRequest(subject="cn:a\0b"), "subject"),
]


@pytest.mark.parametrize(("method", "request_", "field"), HOSTILE)
async def test_what_makes_no_sense_is_refused_with_its_field(
    stubs: list[Any], method: str, request_: Any, field: str
) -> None:
    (call,) = (getattr(stub, method) for stub in stubs if hasattr(stub, method))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailers: Any = dict(caught.value.trailing_metadata() or ())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    fields = BadRequest()
    assert any(detail.Unpack(fields) for detail in status.details)
    assert [violation.field for violation in fields.field_violations] == [field]


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListCertificatesRequest(page_size=2**31 - 1),
        pb.ListCertificatesRequest(device_id="' OR '1'='1", client="%", profile="ota-connect\x7f"),
        pb.ListCertificatesRequest(issued_before=timestamp(-62_135_596_800)),
        pb.ListCertificatesRequest(issued_after=timestamp(253_402_300_799, 999_999_999)),
    ],
)
async def test_what_is_odd_but_clear_is_answered(stub: Any, request_: Any) -> None:
    response = await stub.ListCertificates(request_)
    assert len(response.certificates) <= 1000


async def test_a_token_is_good_for_its_own_question_only(busy: RunningDaemon, auditor: Client) -> None:
    await issue(busy, new_requests(2))
    _, token = await auditor.ledger.page(Query(), size=1)
    with pytest.raises(RequestRefusedError, match="page token"):
        await auditor.ledger.page(Query(client="cn:quickstart"), token, size=1)
    with pytest.raises(RequestRefusedError, match="page token"):
        await auditor.ledger.page(Query(newest_first=True), token, size=1)


async def test_questions_are_answered_while_the_token_is_away(fleet: Fleet) -> None:
    tokens = fleet.folder / "token/tokens"
    tokens.rename(fleet.folder / "token/away")
    tokens.mkdir()
    with running(fleet) as daemon:
        daemon.wait_for("signer.failed")
        async with Client(daemon.address, fleet.tls, patience=5) as client:
            assert await client.ledger.page(Query()) == ([], "")
        async with open_channel(daemon.address, fleet.tls) as channel:
            check: Any = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            kinds = health_pb2.HealthCheckResponse
            for service, status in {"": kinds.NOT_SERVING, "otahsm.v1.LedgerService": kinds.SERVING}.items():
                answer = await check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == status
