"""`otahsm device enroll`: keys in the devices' own tokens. pkcs11-tool and OpenSSL judge what is there."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from support.harness import Fleet, RunningDaemon
from support.programs import openssl
from support.tokens.device_tokens import DeviceToken, soft_device_token
from support.tokens.real_tokens import PIN, Tpm, find_library, started

PAIR_AND_CERTIFICATE = ["Certificate 01", "Private Key 02", "Public Key 02"]


@pytest.fixture
def line(shared_daemon: RunningDaemon) -> Fleet:
    shared_daemon.configure_client()
    return shared_daemon.fleet


@pytest.fixture
def token(line: Fleet, tmp_path: Path) -> DeviceToken:
    return soft_device_token(line, tmp_path)


def new_id() -> str:
    return f"element-{uuid.uuid4().hex[:12]}"


def pem_of(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def assert_signs_for_its_certificate(token: DeviceToken) -> None:
    """Have pkcs11-tool sign with key 02, and OpenSSL verify with certificate 01."""
    digest, signature, key = (token.folder / name for name in ("digest", "signature", "public.pem"))
    digest.write_bytes(hashlib.sha256(b"a device says this").digest())
    files = ("--input-file", digest, "--output-file", signature)
    token.tool("--sign", "--id", "02", "--mechanism", "ECDSA", "--signature-format", "openssl", *files)
    (token.folder / "certificate.pem").write_bytes(pem_of(token.certificate()))
    assert openssl("x509", "-in", token.folder / "certificate.pem", "-noout", "-pubkey", "-out", key).good
    verified = openssl("pkeyutl", "-verify", "-pubin", "-inkey", key, "-in", digest, "-sigfile", signature)
    assert verified.good, verified.text


def test_key_and_certificate_are_in_the_token_and_the_folder_has_all_but_the_key(
    line: Fleet, token: DeviceToken
) -> None:
    device_id = new_id()
    report = token.enrolled(device_id)
    assert report["type"] == "issued"
    assert report["key_made"] is True
    assert token.objects() == PAIR_AND_CERTIFICATE
    listed = token.tool("--list-objects", "--type", "privkey")
    assert "sensitive, always sensitive, never extractable, local" in listed
    assert_signs_for_its_certificate(token)

    folder = token.out / device_id
    assert str(folder) == report["folder"]
    assert (folder / "client.pem").read_bytes() == pem_of(token.certificate())
    assert {path.name for path in folder.iterdir()} == {
        f"{device_id}.csr", "client.pem", f"{device_id}.chain.pem", "root.crt", "gateway.url", "ca.pem",
    }  # fmt: skip
    assert openssl("verify", "-CAfile", line.root_pem, folder / "client.pem").good
    assert openssl("req", "-verify", "-noout", "-in", folder / f"{device_id}.csr").good
    subject = openssl("x509", "-in", folder / "client.pem", "-noout", "-subject").text
    assert subject.split("CN = ")[1].strip() == device_id


def test_the_same_command_again_writes_nothing_but_what_was_lost(token: DeviceToken) -> None:
    device_id = new_id()
    token.enrolled(device_id)
    certificate = token.certificate()
    report = token.enrolled(device_id)
    assert (report["type"], report["key_made"]) == ("complete", False)
    token.tool("--delete-object", "--type", "cert", "--id", "01")
    report = token.enrolled(device_id)
    assert (report["type"], report["replayed"], report["key_made"]) == ("issued", True, False)
    assert token.objects() == PAIR_AND_CERTIFICATE
    assert token.certificate() == certificate


def test_a_key_that_another_program_made_in_the_token_is_used(token: DeviceToken) -> None:
    token.tool(
        "--keypairgen", "--key-type", "EC:prime256v1", "--id", "0a", "--label", "theirs", "--usage-sign"
    )
    report = token.enrolled(new_id(), "--key-id", "0A", "--certificate-id", "0a")
    assert (report["key_made"], report["key_type"]) == (False, "ec-p256")
    assert token.objects() == ["Certificate 0a", "Private Key 0a", "Public Key 0a"]


def test_an_rsa_key_is_made_when_it_is_asked_for_and_no_other_is_taken_for_it(token: DeviceToken) -> None:
    device_id = new_id()
    assert token.enrolled(device_id, "--key-type", "rsa-2048")["key_type"] == "rsa-2048"
    said = token.refused(device_id, "--key-type", "ec-p256")
    assert "not ec-p256; nothing was changed" in said
    assert token.objects() == PAIR_AND_CERTIFICATE


def test_a_key_that_was_put_into_the_token_from_a_file_must_be_accepted_by_name(
    token: DeviceToken, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    assert openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key).good
    public = tmp_path / "public.pem"
    assert openssl("pkey", "-in", key, "-pubout", "-out", public).good
    token.tool("--write-object", key, "--type", "privkey", "--id", "02", "--usage-sign")
    token.tool("--write-object", public, "--type", "pubkey", "--id", "02")
    device_id = new_id()
    assert "--accept not-local" in token.refused(device_id)
    assert token.objects() == ["Private Key 02", "Public Key 02"]
    assert token.enrolled(device_id, "--accept", "not-local")["type"] == "issued"


def test_another_devices_certificate_is_left_alone_unless_it_is_to_be_replaced_and_no_refused_key_stays(
    token: DeviceToken,
) -> None:
    first, second = new_id(), new_id()
    token.enrolled(first)
    certificate = token.certificate()
    said = token.refused(second)
    assert f"it is for '{first}'" in said
    assert "--replace" in said
    # The key has its certificate, and gets none for another device, whatever is replaced.
    done = token.enroll(second, "--replace")
    assert (done.returncode, done.stdout) == (1, "")
    assert "[CONFLICT]" in done.stderr
    assert token.certificate() == certificate
    assert not (token.out / second).exists()
    # Nor does the device get one for another key; that is made first, and not left behind.
    done = token.enroll(first, "--key-id", "0c", "--certificate-id", "0d")
    assert (done.returncode, done.stdout) == (1, "")
    assert "[CONFLICT]" in done.stderr
    assert token.objects() == PAIR_AND_CERTIFICATE
    # Another key: now the certificate's place is taken by one of another key.
    other = ("--key-id", "0b")
    assert "another key" in token.refused(second, *other)
    assert token.objects() == PAIR_AND_CERTIFICATE
    assert token.enrolled(second, *other, "--replace")["type"] == "issued"
    assert token.objects() == ["Certificate 01", *sorted([
        "Private Key 02", "Public Key 02", "Private Key 0b", "Public Key 0b",
    ])]  # fmt: skip
    assert token.certificate() != certificate


def test_a_token_that_is_not_there_is_named_and_so_are_those_that_are(token: DeviceToken) -> None:
    right = token.label
    token.label = "no such token"
    said = token.refused("a-device", status=3)
    assert "no token matches pkcs11:token=no%20such%20token" in said
    assert quote(right) in said


def test_a_token_without_a_user_pin_is_not_logged_in_to(token: DeviceToken) -> None:
    free = ("--slot-index", "1", "--so-pin", "12345678")
    token.tool("--init-token", "--label", "without a PIN", *free, login=False)
    token.label = "without a PIN"
    assert "has no user PIN yet" in token.refused("a-device")


def test_ids_that_aktualizr_could_not_name_are_refused(token: DeviceToken) -> None:
    assert "two hexadecimal digits" in token.refused("a-device", "--key-id", "0102", status=2)


def test_a_tpm_is_enrolled_as_any_token(line: Fleet, make_fleet: Callable[[], Fleet], tmp_path: Path) -> None:
    tpm = Tpm(make_fleet())
    with started(tpm):
        tpm.initialise()
        module = find_library("libtpm2_pkcs11.so")
        token = DeviceToken(line, tmp_path, module, tpm.environment, "a TPM", PIN)
        device_id = new_id()
        assert token.enrolled(device_id)["key_made"] is True
        assert token.enrolled(device_id)["type"] == "complete"
        assert token.objects() == PAIR_AND_CERTIFICATE
        assert_signs_for_its_certificate(token)
