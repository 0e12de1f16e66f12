"""Certificates through a real daemon, a real token and real mutual TLS."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from otahsm.client import Client, IssuedCertificate
from otahsm.pki.parsing import crl_url_in

from support.devices import new_request
from support.harness import Fleet, RunningDaemon, running


async def test_a_csr_becomes_a_certificate_for_its_key_signed_by_the_fleet_root(
    client: Client, shared_daemon: RunningDaemon
) -> None:
    request = new_request()
    result = await client.issuance.issue_one(request.csr, device_id=request.device_id)
    assert isinstance(result, IssuedCertificate)
    (der,) = result.chain
    certificate = x509.load_der_x509_certificate(der)
    root = x509.load_pem_x509_certificate(shared_daemon.fleet.root_pem.read_bytes())
    certificate.verify_directly_issued_by(root)
    assert certificate.public_key() == x509.load_der_x509_csr(request.csr).public_key()
    assert [name.value for name in certificate.subject] == [request.device_id]
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert usage.critical
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.serial_number == result.serial
    assert crl_url_in(der) is None


async def test_a_certificate_states_its_crl_if_one_is_configured(fleet: Fleet) -> None:
    with fleet.toml.open("a") as toml:
        toml.write('[crl]\nurl = "http://crl.example.com/fleet.crl"\ndirectory = "crl"\n')
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            result = await client.issuance.issue_one(new_request().csr)
    assert isinstance(result, IssuedCertificate)
    assert crl_url_in(result.chain[0]) == "http://crl.example.com/fleet.crl"
    certificate = x509.load_der_x509_certificate(result.chain[0])
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(fleet.root_pem.read_bytes()))
