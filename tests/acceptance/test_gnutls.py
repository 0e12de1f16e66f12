"""GnuTLS judges certificates, chains, keys and CSRs: a second opinion, by other authors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from support.harness import Fleet
from support.programs import Device, Verdict, certtool

CLIENT = "1.3.6.1.5.5.7.3.2"
SERVER = "1.3.6.1.5.5.7.3.1"


def verify(root: Path, file: Path, purpose: str) -> Verdict:
    return certtool(
        "--verify",
        "--verify-profile=medium",
        f"--verify-purpose={purpose}",
        f"--load-ca-certificate={root}",
        f"--infile={file}",
    )


def key_pin(*arguments: str) -> str:
    text = certtool(*arguments).text
    match = re.search(r"pin-sha256:(\S{44})\n", text)
    assert match, text
    return match[1]


def test_gnutls_accepts_the_certificate_of_a_tls_client(device: Device) -> None:
    verdict = verify(device.root, device.certificate, CLIENT)
    assert verdict.good, verdict.text
    assert "Chain verification output: Verified. The certificate is trusted." in verdict.text


def test_gnutls_accepts_the_chain_file_of_a_tls_client(device: Device) -> None:
    verdict = verify(device.root, device.chain, CLIENT)
    assert verdict.good, verdict.text
    assert "Chain verification output: Verified. The certificate is trusted." in verdict.text


def test_gnutls_refuses_the_device_as_a_tls_server(device: Device) -> None:
    verdict = verify(device.root, device.chain, SERVER)
    assert not verdict.good
    assert "does not match the intended purpose" in verdict.text


def test_gnutls_reads_in_the_certificate_what_the_profile_promises(device: Device) -> None:
    verdict = certtool("--certificate-info", f"--infile={device.certificate}")
    assert verdict.good, verdict.text
    fields = [line.strip() for line in verdict.text.splitlines()]
    assert f"Subject: CN={device.device_id}" in fields
    assert fields[fields.index("Key Usage (critical):") + 1] == "Digital signature."
    assert fields[fields.index("Key Purpose (critical):") + 1] == "TLS WWW Client."
    extensions = [field for field in fields if field.endswith("critical):")]
    assert extensions == [
        "Key Usage (critical):",
        "Key Purpose (critical):",
        "Subject Key Identifier (not critical):",
        "Authority Key Identifier (not critical):",
    ]


def test_gnutls_finds_that_private_key_csr_and_certificate_belong_together(device: Device) -> None:
    key = key_pin("--key-info", f"--infile={device.key}")
    assert key_pin("--certificate-info", f"--infile={device.certificate}") == key
    assert key_pin("--crq-info", f"--infile={device.csr}") == key


def test_gnutls_refuses_a_device_under_the_root_of_another_fleet(
    devices_of: Callable[[str], dict[str, Device]], line: Fleet
) -> None:
    device = devices_of("ec-p256")["ec-p256"]
    verdict = verify(line.root_pem, device.certificate, CLIENT)
    assert not verdict.good
    assert "NOT trusted" in verdict.text
