"""OpenSSL judges certificates, chains, keys and CSRs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import Fleet, running
from support.programs import Device, issue, make_ca, openssl

CLIENT = ("verify", "-x509_strict", "-purpose", "sslclient")
# The shape of the guide's client.cnf.
CLIENT_CNF = """
[req]
prompt = no
distinguished_name = dn
req_extensions = ext
[dn]
CN = {device_id}
[ext]
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, clientAuth
"""


def public_key(*arguments: str | Path) -> str:
    verdict = openssl(*arguments)
    assert verdict.good, verdict.text
    match = re.search(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", verdict.text, re.DOTALL)
    assert match, verdict.text
    return match[0]


def key_identifier(certificate: Path, extension: str) -> str:
    text = openssl("x509", "-in", certificate, "-noout", "-ext", extension).text
    (identifier,) = re.findall(r"(?:[0-9A-F]{2}:){19}[0-9A-F]{2}", text)
    return str(identifier)


def test_openssl_accepts_the_device_as_a_tls_client(device: Device) -> None:
    verdict = openssl(*CLIENT, "-CAfile", device.root, device.certificate)
    assert verdict.good, verdict.text
    assert verdict.text == f"{device.certificate}: OK\n"


def test_openssl_refuses_the_device_as_a_tls_server(device: Device) -> None:
    verdict = openssl("verify", "-purpose", "sslserver", "-CAfile", device.root, device.certificate)
    assert not verdict.good
    assert "error 26 at 0 depth" in verdict.text


def test_openssl_reads_in_the_certificate_what_the_profile_promises(device: Device) -> None:
    text = openssl("x509", "-in", device.certificate, "-noout", "-text").text
    subject = openssl("x509", "-in", device.certificate, "-noout", "-subject", "-nameopt", "RFC2253").text
    assert subject == f"subject=CN={device.device_id}\n"
    assert "Version: 3" in text
    assert re.search(r"X509v3 Key Usage: critical\n +Digital Signature\n", text)
    assert re.search(r"X509v3 Extended Key Usage: critical\n +TLS Web Client Authentication\n", text)
    assert set(re.findall(r"^ +X509v3 (.+?):", text, re.MULTILINE)) == {
        "extensions",
        "Key Usage",
        "Extended Key Usage",
        "Subject Key Identifier",
        "Authority Key Identifier",
    }
    assert "CA:TRUE" not in text
    assert key_identifier(device.certificate, "authorityKeyIdentifier") == key_identifier(
        device.root, "subjectKeyIdentifier"
    )


def test_openssl_reads_a_positive_serial_of_at_most_20_octets(device: Device) -> None:
    text = openssl("x509", "-in", device.certificate, "-noout", "-serial").text
    match = re.fullmatch(r"serial=([0-9A-F]+)\n", text)
    assert match, text
    assert 64 < int(match[1], 16).bit_length() < 160


def test_openssl_finds_that_private_key_csr_and_certificate_belong_together(device: Device) -> None:
    check = openssl("pkey", "-in", device.key, "-noout", "-check")
    assert "Key is valid" in check.text
    key = public_key("pkey", "-in", device.key, "-pubout")
    assert public_key("x509", "-in", device.certificate, "-noout", "-pubkey") == key
    assert public_key("req", "-in", device.csr, "-noout", "-pubkey") == key
    traditional = device.folder / "pkey.ec.pem"
    assert traditional.exists() == device.key_type.startswith("ec-")
    if traditional.exists():
        assert public_key("ec", "-in", traditional, "-pubout") == key


def test_openssl_accepts_the_signature_of_the_csr(device: Device) -> None:
    verdict = openssl("req", "-in", device.csr, "-noout", "-verify", "-subject", "-nameopt", "RFC2253")
    assert verdict.good, verdict.text
    assert "verify OK" in verdict.text
    assert f"subject=CN={device.device_id}\n" in verdict.text


def test_openssl_refuses_a_device_under_the_root_of_another_fleet(
    devices_of: Callable[[str], dict[str, Device]], line: Fleet
) -> None:
    device = devices_of("ec-p256")["ec-p256"]
    verdict = openssl(*CLIENT, "-CAfile", line.root_pem, device.certificate)
    assert not verdict.good
    assert "unable to get local issuer certificate" in verdict.text


def test_a_root_as_the_guide_makes_it_warns_loudly_because_openssl_refuses_its_devices(
    fleet: Fleet, tmp_path: Path
) -> None:
    made = make_ca(fleet, "--kind", "root-here")
    assert made.returncode == 0
    assert "WARNING" in made.stderr
    assert "refuse EVERY device" in " ".join(made.stderr.split())
    with running(fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
        daemon.configure_client()
        (folder,) = issue(fleet, tmp_path / "devices", ["dev-1"])
    root, certificate = fleet.folder / "ca/another-root.pem", folder / "client.pem"
    assert openssl("verify", "-CAfile", root, certificate).good
    verdict = openssl("verify", "-purpose", "sslclient", "-CAfile", root, certificate)
    assert not verdict.good
    assert "error 26 at 1 depth" in verdict.text


def test_a_root_of_the_default_kind_does_not_warn(fleet: Fleet) -> None:
    made = make_ca(fleet)
    assert made.returncode == 0
    assert made.stderr == ""


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_a_csr_made_with_the_commands_of_the_guide_is_signed(line: Fleet, tmp_path: Path, form: str) -> None:
    device_id = str(uuid.uuid4())
    config, key, csr = (tmp_path / name for name in ("client.cnf", "pkey.pem", "device.csr"))
    config.write_text(CLIENT_CNF.format(device_id=device_id))
    ec_key = tmp_path / "pkey.ec.pem"
    assert openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", ec_key).good
    assert openssl("pkcs8", "-topk8", "-nocrypt", "-in", ec_key, "-out", key).good
    assert openssl("req", "-new", "-config", config, "-key", key, "-outform", form, "-out", csr).good
    done = line.run("csr", "sign", str(csr), "--out", str(tmp_path / "signed"))
    assert done.returncode == 0, done.stderr
    certificate = tmp_path / "signed" / device_id / "client.pem"
    assert openssl(*CLIENT, "-CAfile", line.root_pem, certificate).good
    assert public_key("x509", "-in", certificate, "-noout", "-pubkey") == public_key(
        "pkey", "-in", key, "-pubout"
    )
