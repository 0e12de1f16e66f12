"""Two CAs in one daemon and one ledger: each profile has one, each signs its CRLs, and one can be retired."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.client import CertificateRequest, Client, IssuedCertificate, Revoked, ToRevoke
from otahsm.errors import NotFoundError
from otahsm.pki.crls.building import Reason
from otahsm.pki.serial import SerialNumber

from support.devices import issue_all, new_request, new_requests
from support.harness import Fleet, RunningDaemon, running
from support.ledger_reader import certificates
from support.programs import openssl

NEXT = """
[authorities.2027]
certificate = "ca/fleet-2027.pem"
key = "pkcs11:object=fleet-2027;id=%02"
[authorities.2027.crl]
url = "http://crl.example.com/2027.crl"
directory = "crl-2027"

[crl]
url = "http://crl.example.com/fleet.crl"
directory = "crl"

[profiles.next]
ca = "2027"

"""


def add_next(fleet: Fleet, *options: str) -> Path:
    """Write the next CA into the configuration, and make it; return its root."""
    fleet.edit("[ledger]\n", f"{NEXT}[ledger]\n")
    for command in (("ca", "rotate", "2027", *options), ("ledger", "join", "--expect", "0")):
        done = fleet.run(*command)
        assert done.returncode == 0, done.stderr
    return fleet.folder / "ca/fleet-2027.pem"


def root(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def revoking(daemon: RunningDaemon) -> Client:
    return Client(daemon.address, daemon.fleet.tls)


async def revoke(client: Client, serials: Iterable[int]) -> None:
    async for outcome in client.revocation.revoke(
        [ToRevoke(serial=SerialNumber(serial)) for serial in serials], Reason.SUPERSEDED
    ):
        assert isinstance(outcome, Revoked)


async def issue_both(
    client: Client, old: list[CertificateRequest], following: list[CertificateRequest]
) -> list[IssuedCertificate]:
    """Issue from both CAs at once, so that batches have some of each."""
    results = await asyncio.gather(issue_all(client, old), issue_all(client, following, "next"))
    assert not any(refused for _, refused in results)
    return [result for issued, _ in results for result in issued]


def test_rotation_makes_a_ca_of_the_same_kind_and_a_record(fleet: Fleet) -> None:
    fleet.edit("[ledger]\n", f"{NEXT}[ledger]\n")
    unknown = fleet.run("ca", "rotate", "2028")
    assert unknown.returncode == 2
    assert "[authorities.2028]" in unknown.stderr
    missing = fleet.run("ca", "show", "--ca", "2027")
    assert missing.returncode == 2
    assert "[authorities.2027] certificate" in missing.stderr
    done = fleet.run("ca", "rotate", "2027")
    assert done.returncode == 0, done.stderr
    new = root(fleet.folder / "ca/fleet-2027.pem")
    assert new.subject.rfc4514_string() == "CN=otahsm quickstart fleet root 2027"
    limits = new.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert limits == x509.BasicConstraints(ca=True, path_length=0)
    assert "otahsm ca export anchor --ca 2027" in done.stdout
    (record,) = (fleet.folder / "ca/ceremonies").iterdir()
    assert "beside                   CN=otahsm quickstart fleet root" in record.read_text()
    again = fleet.run("ca", "rotate", "2027")
    assert again.returncode == 2
    assert "exists; nothing was changed" in again.stderr
    for options in ((), ("--ca", "2027")):
        shown = fleet.run("ca", "show", *options)
        assert shown.returncode == 0, shown.stderr
    assert "don't know what was signed last of 1 CA" in fleet.run("doctor").stdout
    assert fleet.run("ledger", "join", "--expect", "0").returncode == 0
    assert fleet.run("doctor").returncode == 0
    exported = fleet.run("ca", "export", "anchor", "--ca", "2027").stdout
    assert x509.load_pem_x509_certificate(exported.encode()) == new


@pytest.mark.parametrize("options", [(), ("--key-type", "rsa-2048")], ids=["same-type", "rsa-2048"])
async def test_each_profile_issues_from_its_own_ca_in_one_batch(
    fleet: Fleet, options: tuple[str, ...]
) -> None:
    new = add_next(fleet, *options)
    old_requests, next_requests = new_requests(40), new_requests(40)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            issued = await issue_both(client, old_requests, next_requests)
            by_csr = {result.request.csr: result for result in issued}
            for requests, path in ((old_requests, fleet.root_pem), (next_requests, new)):
                anchor = root(path)
                for request in requests:
                    result = by_csr[request.csr]
                    x509.load_der_x509_certificate(result.chain[0]).verify_directly_issued_by(anchor)
                    assert result.trust_anchor == anchor.public_bytes(Encoding.DER)
            again = await issue_both(client, old_requests, next_requests)
            assert all(result.replayed for result in again)
            for result in again:
                before = by_csr[result.request.csr]
                assert (result.chain, result.trust_anchor) == (before.chain, before.trust_anchor)
            for name, path in (("", fleet.root_pem), ("2027", new)):
                assert (await client.issuance.authority(name)).trust_anchor == root(path).public_bytes(
                    Encoding.DER
                )
        assert daemon.stop() == 0


async def test_a_profile_that_moves_to_the_next_ca_hands_out_what_it_issued_before(fleet: Fleet) -> None:
    requests = new_requests(10)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            before, _ = await issue_all(client, requests)
        assert daemon.stop() == 0
    new = add_next(fleet)
    fleet.edit('ca = ""', 'ca = "2027"')
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            again, _ = await issue_all(client, requests)
            assert {result.chain for result in again} == {result.chain for result in before}
            assert {result.trust_anchor for result in again} == {
                root(fleet.root_pem).public_bytes(Encoding.DER)
            }
            fresh = await client.issuance.issue_one(new_request().csr)
            assert isinstance(fresh, IssuedCertificate)
            x509.load_der_x509_certificate(fresh.chain[0]).verify_directly_issued_by(root(new))


async def test_each_ca_signs_a_crl_of_its_own_certificates(fleet: Fleet) -> None:
    new = add_next(fleet)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            issued = await issue_both(client, new_requests(3), new_requests(2))
        stated = {}
        for result in issued:
            certificate = x509.load_der_x509_certificate(result.chain[0])
            (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            assert point.full_name is not None
            stated[result.serial] = point.full_name[0].value
        assert (
            sorted(stated.values())
            == ["http://crl.example.com/2027.crl"] * 2 + ["http://crl.example.com/fleet.crl"] * 3
        )
        async with revoking(daemon) as client:
            await revoke(client, stated)
            for name, path, url in (
                ("", fleet.root_pem, "http://crl.example.com/fleet.crl"),
                ("2027", new, "http://crl.example.com/2027.crl"),
            ):
                revocation = client.revocation
                complete, at_url = await revocation.crl(ca=name), await revocation.crl(url=url)
                assert complete.der == at_url.der
                crl = x509.load_der_x509_crl(complete.der)
                assert crl.is_signature_valid(root(path).public_key())  # type: ignore[arg-type]
                assert {entry.serial_number for entry in crl} == {
                    serial for serial, its_url in stated.items() if its_url == url
                }
        for folder, path in (("crl", fleet.root_pem), ("crl-2027", new)):
            file = fleet.folder / folder / "complete.pem"
            daemon.wait_for("crl.written", count=2)
            assert openssl("crl", "-in", file, "-CAfile", path, "-noout", "-verify").good
        assert daemon.stop() == 0
    with running(fleet) as daemon:  # numbers go on, and nothing is mixed up
        daemon.wait_for("health.changed", serving=True)
        async with revoking(daemon) as client:
            for name, count in (("", 3), ("2027", 2)):
                fetched = await client.revocation.crl(ca=name)
                assert len(x509.load_der_x509_crl(fetched.der)) == count


def test_device_folders_end_with_the_root_of_their_own_ca(fleet: Fleet) -> None:
    new = add_next(fleet)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        for device, profile, path in (("old-1", "ota-connect", fleet.root_pem), ("new-1", "next", new)):
            (fleet.folder / "ids").write_text(f"{device}\n")
            done = fleet.run("device", "issue", "--ids", "ids", "--profile", profile)
            assert done.returncode == 0, done.stderr
            folder = fleet.folder / "devices" / device
            chain = x509.load_pem_x509_certificates((folder / f"{device}.chain.pem").read_bytes())
            assert chain[-1] == root(path)
            verdict = openssl("verify", "-purpose", "sslclient", "-CAfile", path, folder / "client.pem")
            assert verdict.good, verdict.text


async def test_a_ca_is_retired_when_nothing_needs_it_any_more(fleet: Fleet) -> None:
    add_next(fleet)
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            issued, _ = await issue_all(client, new_requests(2), "next")
        assert len(issued) == 2
        async with revoking(daemon) as client:
            await revoke(client, [issued[0].serial])
        in_use = fleet.run("ca", "retire", "2027", "--yes")
        assert in_use.returncode == 2
        assert "[authorities.2027] is in use" in in_use.stderr
        assert daemon.stop() == 0
    fleet.edit('[profiles.next]\nca = "2027"', "[profiles.next]")
    fleet.edit(
        'certificate = "ca/fleet-2027.pem"\nkey', 'certificate = "ca/fleet-2027.pem"\nretired = true\nkey'
    )
    valid = fleet.run("ca", "retire", "2027", "--yes")
    assert valid.returncode == 2
    assert "the CA 2027 has certificates that are still valid (1), the last until" in valid.stderr
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with revoking(daemon) as client:
            await revoke(client, [issued[1].serial])
        assert daemon.stop() == 0
    done = fleet.run("ca", "retire", "2027", "--yes")
    assert done.returncode == 0, done.stderr
    record = max((fleet.folder / "ca/ceremonies").iterdir()).read_text()
    assert "ceremony                 ca retire" in record
    assert "DESTROYED" in record
    assert fleet.run("ca", "show", "--ca", "2027").returncode == 3
    assert fleet.run("doctor").returncode == 0
    with running(fleet) as daemon:  # without the key, and it still knows what that CA has issued
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            assert isinstance(await client.issuance.issue_one(new_request().csr), IssuedCertificate)
        async with revoking(daemon) as client:
            with pytest.raises(NotFoundError, match="is retired"):
                await client.revocation.crl(ca="2027")
    assert len(certificates(fleet)) == 3


def test_authorities_that_make_no_sense_are_refused(fleet: Fleet) -> None:
    config = fleet.toml.read_text()
    for old, new, why in (
        ("object=fleet-2027;id=%02", "object=fleet-root;id=%02", "a label (object) and an id that differ"),
        ("object=fleet-2027;id=%02", "object=fleet-2027;id=%C1", "a label (object) and an id that differ"),
        ('directory = "crl-2027"', 'directory = "crl"', "each CA needs its own CRL url and directory"),
        ('[profiles.next]\nca = "2027"', '[profiles.next]\nca = "2028"', "there is no [authorities.2028]"),
        (
            'directory = "crl-2027"\n',
            'directory = "crl-2027"\n[authorities.2027]\nretired = true\n',
            "can't read otahsm.toml",
        ),
        ('key = "pkcs11:object=fleet-2027', 'retired = true\nkey = "pkcs11:object=fleet-2027', "is retired"),
    ):
        fleet.toml.write_text(config.replace("[ledger]\n", f"{NEXT}[ledger]\n").replace(old, new))
        done = fleet.run("serve")
        assert done.returncode == 2
        assert why in done.stderr
