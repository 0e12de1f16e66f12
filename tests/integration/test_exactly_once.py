"""I3, through the wire: the same request gets the same bytes, and what conflicts is refused."""

from __future__ import annotations

import asyncio

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from otahsm.client import CertificateRequest, Client, IssuedCertificate, Refusal, Result
from otahsm.line import make_csr

from support.devices import issue_all, new_request, new_requests
from support.harness import Fleet, RunningDaemon, running
from support.ledger_reader import certificates, rows


async def test_the_same_csr_again_gets_the_same_bytes(client: Client) -> None:
    request = new_request()
    first = await client.issuance.issue_one(request.csr)
    again = await client.issuance.issue_one(request.csr, device_id=request.device_id)
    assert isinstance(first, IssuedCertificate)
    assert isinstance(again, IssuedCertificate)
    assert (again.chain, again.serial, again.not_before) == (first.chain, first.serial, first.not_before)
    assert (first.replayed, again.replayed) == (False, True)


async def test_another_csr_of_the_same_key_gets_the_same_bytes(client: Client) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csrs = {make_csr("twice-signed", key) for _ in range(2)}
    assert len(csrs) == 2  # ECDSA signatures differ
    results = [await client.issuance.issue_one(csr) for csr in csrs]
    assert len({result.chain for result in results if isinstance(result, IssuedCertificate)}) == 1


async def test_the_same_bytes_come_after_a_restart(fleet: Fleet) -> None:
    requests = new_requests(50)
    found: list[dict[str, bytes]] = []
    for _ in range(2):
        with running(fleet) as daemon:
            async with daemon.client() as client:
                issued, refused = await issue_all(client, requests)
            assert not refused
            assert daemon.stop() == 0
        found.append({result.device_id: result.chain[0] for result in issued})
    assert found[0] == found[1] == certificates(fleet)


async def test_a_device_id_with_another_key_is_a_conflict_that_names_the_certificate(
    client: Client,
) -> None:
    request = new_request()
    first = await client.issuance.issue_one(request.csr)
    assert isinstance(first, IssuedCertificate)
    second = await client.issuance.issue_one(new_request(request.device_id).csr)
    assert isinstance(second, Refusal)
    assert (second.code, second.reason) == ("ALREADY_EXISTS", "CONFLICT")
    assert f"{first.serial:x}" in second.message


async def test_a_key_under_two_device_ids_is_refused(client: Client) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    first = await client.issuance.issue_one(make_csr("key-owner", key))
    second = await client.issuance.issue_one(make_csr("key-thief", key))
    assert isinstance(first, IssuedCertificate)
    assert isinstance(second, Refusal)
    assert second.code == "ALREADY_EXISTS"
    assert "key-owner" in second.message


async def test_a_request_id_belongs_to_one_device(client: Client) -> None:
    requests = [CertificateRequest(new_request().csr, request_id="order-4711") for _ in range(2)]
    results = [result for request in requests async for result in client.issuance.issue([request])]
    assert isinstance(results[0], IssuedCertificate)
    assert isinstance(results[1], Refusal)
    assert results[1].code == "ALREADY_EXISTS"


async def test_the_same_request_twice_in_one_stream_gets_two_equal_answers(client: Client) -> None:
    request = new_request()
    issued, refused = await issue_all(client, [request, *new_requests(10), request])
    assert not refused
    assert len({result.chain for result in issued if result.device_id == request.device_id}) == 1


async def test_many_clients_asking_for_the_same_devices_at_once_all_get_the_same_bytes(
    daemon: RunningDaemon,
) -> None:
    requests = new_requests(200)

    async def ask(shift: int) -> list[Result]:
        async with daemon.client(patience=30) as client:
            ordered = requests[shift:] + requests[:shift]
            return [result async for result in client.issuance.issue(ordered)]

    answers = await asyncio.gather(*(ask(shift) for shift in range(0, 200, 25)))
    seen: dict[str, set[bytes]] = {}
    for result in (result for answer in answers for result in answer):
        assert isinstance(result, IssuedCertificate)
        seen.setdefault(result.device_id, set()).add(result.chain[0])
    assert [len(chains) for chains in seen.values()] == [1] * 200
    assert certificates(daemon.fleet) == {device: chains.pop() for device, chains in seen.items()}


async def test_two_keys_for_one_device_at_once_give_one_certificate(daemon: RunningDaemon) -> None:
    async with daemon.client(patience=30) as client:
        results = await asyncio.gather(
            *(client.issuance.issue_one(new_request("contested").csr) for _ in range(16))
        )
    issued = [result for result in results if isinstance(result, IssuedCertificate)]
    refused = [result for result in results if isinstance(result, Refusal)]
    assert len(issued) == 1
    assert {refusal.code for refusal in refused} == {"ALREADY_EXISTS"}
    assert certificates(daemon.fleet) == {"contested": issued[0].chain[0]}


async def test_the_ledger_says_who_asked_and_never_repeats_a_serial(daemon: RunningDaemon) -> None:
    async with daemon.client() as client:
        issued, _ = await issue_all(client, new_requests(300))
    found = rows(daemon.fleet)
    assert {row.client for row in found} == {"cn:quickstart"}
    assert {row.serial for row in found} == {result.serial for result in issued}
    for row in found:
        assert row.certificate is not None
        assert x509.load_der_x509_certificate(row.certificate).serial_number == row.serial
        assert 0 < row.serial < 2**159
