"""Tokens that are not SoftHSM2's files: the same daemon, the same promises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from cryptography import x509

from otahsm.client import CertificateRequest, IssuedCertificate, Refusal

from support.devices import issue_all, new_request, new_requests
from support.harness import Fleet, RunningDaemon, eventually, running
from support.ledger_reader import certificates
from support.tokens.real_tokens import RealToken, TokenAcrossASocket, Tpm, started


@pytest.fixture
def across(fleet: Fleet) -> Iterator[TokenAcrossASocket]:
    token = TokenAcrossASocket(fleet)
    fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.5")
    with started(token):
        yield token


@pytest.fixture
def tpm(fleet: Fleet) -> Iterator[Tpm]:
    token = Tpm(fleet)
    fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.5")
    with started(token):
        token.initialise()
        for command in (("ca", "init"), ("ledger", "init-key")):
            done = fleet.run(*command)
            assert done.returncode == 0, done.stderr
        yield token


async def issue_and_check(fleet: Fleet, daemon: RunningDaemon, count: int) -> None:
    async with daemon.client() as client:
        issued, refused = await issue_all(client, new_requests(count))
    assert not refused
    assert len(issued) == count
    root = x509.load_pem_x509_certificate(fleet.root_pem.read_bytes())
    for result in issued:
        x509.load_der_x509_certificate(result.chain[0]).verify_directly_issued_by(root)


async def issue_through_a_death(
    daemon: RunningDaemon, token: RealToken, requests: list[CertificateRequest], before: int
) -> dict[str, bytes]:
    """Have `before` requests answered, kill the token under the others, and start it while they wait.

    Returns:
        All certificates in DER, by device id.
    """
    daemon.wait_for("health.changed", serving=True)
    async with daemon.client(patience=60) as client:
        first, _ = await issue_all(client, requests[:before])
        rest = asyncio.ensure_future(issue_all(client, requests[before:]))
        token.kill()
        await asyncio.to_thread(daemon.wait_for, "health.changed", serving=False)
        async with daemon.client(patience=0) as hasty:
            assert isinstance(await hasty.issuance.issue_one(new_request().csr), Refusal)
        token.start()
        second, refused = await rest
    assert not refused
    return {result.device_id: result.chain[0] for result in (*first, *second)}


@pytest.mark.usefixtures("across")
def test_a_token_across_a_socket_shows_its_key(fleet: Fleet) -> None:
    shown = fleet.run("ca", "show")
    assert shown.returncode == 0, shown.stderr
    assert "belongs to the certificate  yes" in shown.stdout


async def test_a_token_across_a_socket_that_dies_and_returns_loses_nothing(
    fleet: Fleet, across: TokenAcrossASocket
) -> None:
    with running(fleet) as daemon:
        issued = await issue_through_a_death(daemon, across, new_requests(600), before=200)
        assert daemon.stop() == 0
    assert certificates(fleet) == issued


async def test_a_token_across_a_socket_that_freezes_is_given_up_within_the_time_for_a_signature(
    fleet: Fleet, across: TokenAcrossASocket
) -> None:
    fleet.edit("sign_timeout_seconds = 30.0", "sign_timeout_seconds = 1.0")
    with running(fleet) as daemon:
        daemon.wait_for("signer.ready")
        daemon.wait_for("health.changed", serving=True)
        across.freeze()
        async with daemon.client(patience=0) as client:
            refusal = await client.issuance.issue_one(new_request().csr)
        assert isinstance(refusal, Refusal)
        assert "did not respond within 1 s" in refusal.message
        await asyncio.to_thread(daemon.wait_for, "health.changed", serving=False)
        across.thaw()
        await asyncio.to_thread(daemon.wait_for, "health.changed", serving=True, count=2)
        await issue_and_check(fleet, daemon, 50)


@pytest.mark.parametrize("mechanism", ["CKM_ECDSA", "CKM_ECDSA_SHA256"])
@pytest.mark.usefixtures("tpm")
async def test_a_tpm_signs_with_either_mechanism(fleet: Fleet, mechanism: str) -> None:
    key = 'key = "pkcs11:object=fleet-root;id=%01"'
    fleet.edit(key, f'{key}\nmechanism = "{mechanism}"')
    shown = fleet.run("ca", "show")
    assert shown.returncode == 0, shown.stderr
    assert "CKM_ECDSA_SHA256" in shown.stdout
    with running(fleet) as daemon:
        daemon.wait_for("signer.ready")
        daemon.wait_for("health.changed", serving=True)
        await issue_and_check(fleet, daemon, 50)


async def test_a_tpm_that_dies_and_returns_is_served_again_without_an_operator(
    fleet: Fleet, tpm: Tpm
) -> None:
    requests = new_requests(100)
    with running(fleet) as daemon:
        issued = await issue_through_a_death(daemon, tpm, requests, before=20)
        async with daemon.client() as client:
            assert isinstance(await client.issuance.issue_one(requests[0].csr), IssuedCertificate)
        eventually(lambda: len(daemon.signers()) == 1, "the signer is missing")
        assert daemon.stop() == 0
    assert certificates(fleet) == issued
