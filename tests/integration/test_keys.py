"""Keys as tokens have them: what is refused, what is accepted in writing, and every mechanism that signs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from support.devices import issue_all, new_requests
from support.harness import READY_SECONDS, Fleet, running
from support.programs import make_ca, openssl
from support.tokens.odd_keys import NEW_KEY, certify, odd_key


async def check_issuing(fleet: Fleet, count: int = 20) -> list[x509.Certificate]:
    """Start a daemon, have certificates issued, and judge each by OpenSSL."""
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        async with daemon.client() as client:
            issued, refused = await issue_all(client, new_requests(count))
            authority = await client.issuance.authority()
        assert not refused
        assert daemon.stop() == 0
    anchor = fleet.folder / "anchor.pem"
    pem = [
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        for der in (*authority.chain, authority.trust_anchor)
    ]
    anchor.write_bytes(b"".join(pem))
    certificates = [x509.load_der_x509_certificate(result.chain[0]) for result in issued]
    leaf = fleet.folder / "leaf.pem"
    leaf.write_bytes(certificates[0].public_bytes(Encoding.PEM))
    verdict = openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", anchor, leaf)
    assert verdict.good, verdict.text
    return certificates


@pytest.mark.parametrize(
    ("attribute", "flaw"), [("EXTRACTABLE=true", "extractable"), ("SENSITIVE=false", "not-sensitive")]
)
async def test_a_key_that_could_leave_the_token_signs_only_if_that_is_accepted(
    fleet: Fleet, attribute: str, flaw: str
) -> None:
    odd_key(fleet, attribute)
    with running(fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 4
        (failed, *_) = daemon.wait_for("signer.failed", reason="TOKEN_REFUSED")
        assert f"the key {NEW_KEY} is unfit as a root of trust" in failed["message"]
        assert f'accept = ["{flaw}"]' in failed["hint"]
    refused = fleet.run("ca", "csr", "--name", "Odd CA", "--reuse-key", "-o", "x.csr")
    assert refused.returncode == 4
    fleet.edit(f'key = "{NEW_KEY}"', f'key = "{NEW_KEY}"\naccept = ["{flaw}"]')
    certify(fleet)
    await check_issuing(fleet)


async def test_a_key_that_wants_the_pin_for_every_signature_gets_it(fleet: Fleet) -> None:
    odd_key(fleet, "ALWAYS_AUTHENTICATE=true")
    certify(fleet)
    fleet.edit("sessions = 1", "sessions = 2")
    assert len(await check_issuing(fleet, 100)) == 100


@pytest.mark.parametrize(
    ("key_type", "mechanism", "signed_with"),
    [
        ("ec-p256", "CKM_ECDSA", "ecdsa-with-SHA256"),
        ("ec-p384", "CKM_ECDSA", "ecdsa-with-SHA384"),
        ("rsa-2048", "CKM_RSA_PKCS", "sha256WithRSAEncryption"),
        ("rsa-2048", "CKM_SHA256_RSA_PKCS", "sha256WithRSAEncryption"),
        ("rsa-2048", "CKM_RSA_PKCS_PSS", "rsassaPss"),
        ("rsa-3072", "CKM_SHA256_RSA_PKCS_PSS", "rsassaPss"),
        ("ed25519", "CKM_EDDSA", "ED25519"),
    ],
)
async def test_every_mechanism_signs_what_openssl_verifies(
    fleet: Fleet, key_type: str, mechanism: str, signed_with: str
) -> None:
    key = 'key = "pkcs11:object=fleet-root;id=%01"'
    fleet.edit(key, f'{key}\nmechanism = "{mechanism}"')
    done = make_ca(fleet, "--key-type", key_type)
    assert done.returncode == 0, done.stderr
    certificates = await check_issuing(fleet)
    assert {certificate.signature_algorithm_oid._name for certificate in certificates} <= {
        signed_with,
        signed_with.lower(),
        "RSASSA-PSS",
    }
    shown = openssl("x509", "-in", fleet.folder / "leaf.pem", "-noout", "-text").text
    assert f"Signature Algorithm: {signed_with}" in shown


def test_a_mechanism_of_another_kind_of_key_is_refused(fleet: Fleet) -> None:
    key = 'key = "pkcs11:object=fleet-root;id=%01"'
    fleet.edit(key, f'{key}\nmechanism = "CKM_RSA_PKCS"')
    with running(fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 2
        (failed, *_) = daemon.wait_for("signer.failed", reason="CONFIG")
        assert "mechanism CKM_RSA_PKCS does not fit the key" in failed["message"]


def test_a_key_is_found_by_its_label_or_id_alone_unless_several_match(fleet: Fleet) -> None:
    twin = 'key = "pkcs11:object=fleet-root;id=%07"'
    config = fleet.toml.read_text()
    for name in (
        "pkcs11:object=fleet-root",
        "pkcs11:id=%01",
        "pkcs11:token=otahsm-quickstart;id=%01;type=private",
    ):
        fleet.toml.write_text(config.replace("pkcs11:object=fleet-root;id=%01", name))
        assert fleet.run("ca", "show").returncode == 0
    fleet.toml.write_text(config.replace('key = "pkcs11:object=fleet-root;id=%01"', twin))
    command = [sys.executable, "-m", "support.token_tool", str(fleet.toml)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    fleet.toml.write_text(config.replace("pkcs11:object=fleet-root;id=%01", "pkcs11:object=fleet-root"))
    with running(fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 4
        (failed, *_) = daemon.wait_for("signer.failed", reason="TOKEN_REFUSED")
        for candidate in ("pkcs11:object=fleet-root;id=%01", "pkcs11:object=fleet-root;id=%07"):
            assert candidate in failed["message"]


def test_of_two_tokens_with_one_label_the_serial_chooses(fleet: Fleet) -> None:
    second = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "otahsm-quickstart",
        "--so-pin",
        "12345678",
    ]
    environment = {"SOFTHSM2_CONF": str(fleet.folder / "token/softhsm2.conf")}
    subprocess.run([*second, "--pin", "12345678"], check=True, env={**environment, "PATH": "/usr/bin"})
    shown = fleet.run("ca", "show")
    assert shown.returncode == 4
    assert "2 tokens match pkcs11:token=otahsm-quickstart" in shown.stderr
    serials = {word.partition(";serial=")[2][:16] for word in shown.stderr.split() if ";serial=" in word}
    assert len(serials) == 2
    config = fleet.toml.read_text()
    found = []
    for serial in sorted(serials):
        fleet.toml.write_text(config.replace("pkcs11:token=otahsm-quickstart", f"pkcs11:serial={serial}"))
        found.append(fleet.run("ca", "show").returncode)
        (fleet.folder / "state/login/login.json").unlink(missing_ok=True)  # the one with another PIN
    assert sorted(found) in ([0, 3], [0, 4])  # one has the key, and the other takes another PIN
