"""OpenSSL, GnuTLS and nginx judge CRLs: who is on the list stays out, everybody else comes in."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto import pem
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otahsm.pki.crls.building import Reason, RevokedCertificate
from otahsm.pki.serial import SerialNumber
from otahsm.quickstart.certificates import FileCa

from support.attacks.forging import key_of
from support.authority import CA_NAME, SMALL_KEY_TYPES, crl, issuer_of, leaf, root_of
from support.harness import free_port
from support.programs import ask, assert_refused, certtool, nginx, openssl, trust

URLS = ("http://crl.example.com/fleet-0.crl", "http://crl.example.com/fleet-1.crl")
SERIALS = {
    # device: serial number, and the CRL that its certificate states
    "good-0": (0x1000, URLS[0]),
    "revoked-0": (0x1002, URLS[0]),
    "good-1": (0x1001, URLS[1]),
    "revoked-1": (0x1003, URLS[1]),
    "good-old": (0x1004, None),
    "revoked-old": (0x1006, None),
}
REVOKED = [name for name in SERIALS if name.startswith("revoked")]
GOOD = [name for name in SERIALS if name.startswith("good")]
NOW = datetime.now(UTC).replace(microsecond=0)
MADE = NOW - timedelta(hours=1)
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
LISTS = ("complete", "expired", "shard-0", "shard-1", "authorities")


@dataclass(frozen=True)
class Files:
    """A folder with a root, devices' certificates with the key that they share, and CRLs."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def certificate(self, device: str) -> Path:
        return self.folder / f"{device}.pem"

    def crls(self, *names: str) -> Path:
        """Put CRLs together into one file."""
        path = self.folder / f"{'+'.join(names)}.crl"
        path.write_bytes(b"".join((self.folder / f"{name}.list").read_bytes() for name in names))
        return path


def entry(device: str, reason: Reason = Reason.KEY_COMPROMISE) -> RevokedCertificate:
    return RevokedCertificate(SERIALS[device][0], MADE, reason)


def armoured(der: bytes) -> bytes:
    text: bytes = pem.armor("X509 CRL", der)
    return text


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("crl"))
    made.root.write_bytes(pem.armor("CERTIFICATE", root_of("ec-p256")))
    key = key_of("ec-p256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    made.key.write_bytes(key)
    for device, (serial, url) in SERIALS.items():
        der = leaf(device, "ec-p256", serial=serial, crl_url=url)
        made.certificate(device).write_bytes(pem.armor("CERTIFICATE", der))
    everybody = [entry(device) for device in REVOKED]
    lists = (
        crl(everybody, made=MADE),
        crl(everybody, made=NOW - timedelta(days=8)),
        *(crl([entry(f"revoked-{shard}")], made=MADE, url=url) for shard, url in enumerate(URLS)),
        crl(made=MADE, only_authorities=True),
    )
    for name, der in zip(LISTS, lists, strict=True):
        (made.folder / f"{name}.list").write_bytes(armoured(der))
    return made


@pytest.mark.parametrize("ca", SMALL_KEY_TYPES)
def test_openssl_reads_what_a_crl_says_and_accepts_its_signature(tmp_path: Path, ca: str) -> None:
    (key_type,) = (name for name in SMALL_KEY_TYPES if name == ca)
    root, file = tmp_path / "root.pem", tmp_path / "fleet.crl"
    root.write_bytes(pem.armor("CERTIFICATE", root_of(key_type)))
    listed = [
        RevokedCertificate(0xABC0 + number, MADE, reason) for number, reason in enumerate(Reason, start=1)
    ]
    file.write_bytes(crl(listed, ca=key_type, number=0x1234, made=MADE, url=URLS[0]))
    verdict = openssl("crl", "-inform", "DER", "-in", file, "-noout", "-text", "-CAfile", root)
    assert verdict.good
    text = verdict.text
    assert "verify OK" in text
    assert "Version 2 (0x1)" in text
    assert f"Issuer: CN = {CA_NAME}" in text
    assert f"Last Update: {MADE:%b} {MADE.day:2} {MADE:%H:%M:%S %Y} GMT" in text
    identifier = issuer_of(key_type).key_identifier.hex(":").upper()
    assert re.search(rf"X509v3 Authority Key Identifier: \n +{identifier}\n", text)
    assert re.search(r"X509v3 CRL Number: \n +4660\n", text)
    assert re.search(r"X509v3 Issuing Distribution Point: critical\n", text)
    assert f"URI:{URLS[0]}" in text
    assert "Only User Certificates" in text
    serials = re.findall(r"Serial Number: ([0-9A-F]+)\n", text)
    assert serials == [SerialNumber(item.serial).hex().upper() for item in listed]
    reasons = re.findall(r"X509v3 CRL Reason Code: \n +(.+)\n", text)
    assert [reason.lower().replace(" ", "_") for reason in reasons] == [
        reason for reason in Reason if reason is not Reason.UNSPECIFIED
    ]


def verify(files: Files, device: str, crls: Path, *options: str) -> str:
    """Let OpenSSL judge a device; return "OK" or the number of the error."""
    verdict = openssl(
        "verify",
        "-x509_strict",
        *("-purpose", "sslclient"),
        *(options or ("-crl_check",)),
        *("-CAfile", files.root),
        *("-CRLfile", crls),
        files.certificate(device),
    )
    if verdict.good:
        return "OK"
    match = re.search(r"error (\d+ at \d) depth", verdict.text)
    assert match, verdict.text
    return match[1]


REVOKED_ERROR, SCOPE_ERROR, EXPIRED_ERROR, SIGNATURE_ERROR = "23 at 0", "44 at 0", "12 at 0", "8 at 0"


@pytest.mark.parametrize("option", ["-crl_check", "-crl_check_all"])
def test_openssl_refuses_the_revoked_and_accepts_the_others(files: Files, option: str) -> None:
    complete = files.crls("complete")
    options = ("-crl_check", option)
    assert {verify(files, device, complete, *options) for device in REVOKED} == {REVOKED_ERROR}
    assert {verify(files, device, complete, *options) for device in GOOD} == {"OK"}


def test_openssl_refuses_everybody_by_a_crl_that_has_expired(files: Files) -> None:
    expired = files.crls("expired")
    assert {verify(files, device, expired) for device in SERIALS} == {EXPIRED_ERROR}


def test_openssl_refuses_everybody_by_a_crl_that_was_changed(files: Files) -> None:
    changed = files.folder / "changed.crl"
    genuine = crl([entry(device) for device in REVOKED], made=MADE)
    serial = bytes.fromhex("02021002")
    assert genuine.count(serial) == 1
    changed.write_bytes(armoured(genuine.replace(serial, bytes.fromhex("02021005"))))
    assert {verify(files, device, changed) for device in ("good-0", "revoked-0")} == {SIGNATURE_ERROR}


@pytest.mark.parametrize("options", [("-crl_check",), ("-crl_check", "-extended_crl")], ids=" ".join)
def test_openssl_takes_a_shard_for_the_devices_that_state_its_url(
    files: Files, options: tuple[str, ...]
) -> None:
    both = files.crls("shard-0", "shard-1")
    assert {verify(files, device, both, *options) for device in ("good-0", "good-1")} == {"OK"}
    assert {verify(files, device, both, *options) for device in ("revoked-0", "revoked-1")} == {REVOKED_ERROR}
    one = files.crls("shard-0")
    assert verify(files, "good-0", one, *options) == "OK"
    assert verify(files, "revoked-0", one, *options) == REVOKED_ERROR
    others = ("good-1", "revoked-1", "good-old", "revoked-old")
    assert {verify(files, device, one, *options) for device in others} == {SCOPE_ERROR}


def test_openssl_wants_a_crl_for_the_root_too_when_it_checks_the_chain(files: Files) -> None:
    options = ("-crl_check", "-crl_check_all")
    devices = files.crls("shard-0", "shard-1")
    assert verify(files, "good-0", devices, *options) == "44 at 1"
    with_authorities = files.crls("shard-0", "shard-1", "authorities")
    assert verify(files, "good-0", with_authorities, *options) == "OK"
    assert verify(files, "revoked-1", with_authorities, *options) == REVOKED_ERROR
    # What is on no shard's list does not come in by the CRL of the authorities, which is empty.
    assert verify(files, "revoked-old", with_authorities, *options) == SCOPE_ERROR
    assert verify(files, "revoked-0", files.crls("authorities"), *options) == SCOPE_ERROR


def test_openssl_finds_one_device_among_fifty_thousand(files: Files) -> None:
    many = [
        RevokedCertificate((1 << 150) + number, MADE, Reason.CESSATION_OF_OPERATION)
        for number in range(50_000)
    ]
    large = files.folder / "large.crl"
    large.write_bytes(armoured(crl([*many[:30_000], entry("revoked-0"), *many[30_000:]], made=MADE)))
    assert verify(files, "revoked-0", large) == REVOKED_ERROR
    assert {verify(files, device, large) for device in GOOD} == {"OK"}


def gnutls_accepts(files: Files, device: str, crls: Path) -> bool:
    verdict = certtool(
        "--verify",
        "--verify-profile=medium",
        f"--load-ca-certificate={files.root}",
        f"--load-crl={crls}",
        f"--infile={files.certificate(device)}",
    )
    said = verdict.text.partition("Chain verification output: ")[2]
    assert said.startswith("Verified." if verdict.good else "Not verified."), verdict.text
    assert verdict.good or "The certificate chain is revoked" in said
    return verdict.good


def test_gnutls_refuses_the_revoked_and_accepts_the_others(files: Files) -> None:
    complete = files.crls("complete")
    assert not any(gnutls_accepts(files, device, complete) for device in REVOKED)
    assert all(gnutls_accepts(files, device, complete) for device in GOOD)


def test_gnutls_takes_any_shard_for_the_whole_list(files: Files) -> None:
    # It doesn't know issuing distribution points, critical or not: the reference says so of `crl.shards`.
    assert not gnutls_accepts(files, "revoked-0", files.crls("shard-0"))
    assert gnutls_accepts(files, "revoked-0", files.crls("shard-1"))


@pytest.mark.parametrize("name", ["complete", "shard-0", "authorities"])
def test_gnutls_reads_what_a_crl_says_and_accepts_its_signature(files: Files, name: str) -> None:
    file = files.crls(name)
    verdict = certtool("--verify-crl", f"--load-ca-certificate={files.root}", f"--infile={file}")
    assert verdict.good, verdict.text
    assert "Verification output: Verified." in verdict.text
    text = certtool("--crl-info", f"--infile={file}").text
    assert "Version: 2" in text
    assert f"Issuer: CN={CA_NAME}" in text
    assert f"Issued: {MADE:%a %b %d %H:%M:%S} UTC {MADE:%Y}" in text
    assert issuer_of("ec-p256").key_identifier.hex() in text
    assert "CRL Number (not critical): 01" in text
    count = {"complete": 3, "shard-0": 1, "authorities": 0}[name]
    assert len(re.findall(r"Serial Number \(hex\): 10", text)) == count


SERVER = """
    server {{
        listen 127.0.0.1:@PORT@ ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate {folder}/root.pem;
        ssl_crl {crl};
        ssl_verify_client on;
        location / {{ return 200 $ssl_client_s_dn; }}
    }}
"""


@dataclass(frozen=True)
class Gateway:
    """A running nginx that has CRLs; which devices it must accept, and which refuse."""

    files: Files
    port: int
    good: tuple[str, ...]
    bad: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def client(self, device: str, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = trust(self.files.folder / "server-ca.pem", version)
        context.load_cert_chain(self.files.certificate(device), self.files.key)
        return context


GATEWAYS = {
    "complete": (("complete",), tuple(GOOD), tuple(REVOKED)),
    "sharded": (
        ("shard-0", "shard-1", "authorities"),
        ("good-0", "good-1"),
        ("revoked-0", "revoked-1", "revoked-old"),
    ),
    "expired": (("expired",), (), tuple(SERIALS)),
}


@pytest.fixture(params=GATEWAYS)
def gateway(files: Files, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    names, good, bad = GATEWAYS[request.param]
    folder, port = files.folder, free_port()
    ca = FileCa.create("test gateway CA")
    ca.write_certificate(folder / "server-ca.pem")
    for name in ("server.pem", "server.key"):
        (folder / name).unlink(missing_ok=True)
    ca.issue_server(folder / "server.pem", folder / "server.key", "gateway")
    with nginx(tmp_path, port, SERVER.format(folder=folder, crl=files.crls(*names))):
        yield Gateway(files, port, good, bad)


def test_nginx_refuses_a_revoked_device_and_still_accepts_the_others(gateway: Gateway) -> None:
    for version in VERSIONS:
        for device in gateway.bad:
            assert_refused(gateway.url, gateway.client(device, version))
        for device in gateway.good:
            assert ask(gateway.url, gateway.client(device, version)) == (200, f"CN={device}")
