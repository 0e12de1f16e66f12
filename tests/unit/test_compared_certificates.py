"""Certificates that are not what their rows say: `verify` names each, whoever wrote the row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from otahsm.pki.keytypes import KeyType, generate_key

from support.authority import issuer_of
from support.evidence import (
    ISSUER,
    NOW,
    SHARDS,
    Certificate,
    certificate,
    fill,
    look_at_certificates,
    octets,
    put,
    record,
)
from support.homes import Home, SqliteHome, ledger_in

KEY = ISSUER.key_identifier.hex()


@pytest.fixture
async def issued(home: Home) -> list[Certificate]:
    return await fill(home)


def test_certificates_that_are_what_their_rows_say_match(home: Home, issued: list[Certificate]) -> None:
    result, findings = look_at_certificates(home)
    assert findings == []
    assert (result.certificates, result.signatures, result.unchecked) == (len(issued), len(issued), {})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("serial = {other}", "its serial number is"),
        ("not_before = not_before - 1", "its validity is not the recorded one"),
        ("not_after = not_after + 86400", "its validity is not the recorded one"),
        ("not_after = 9223372036854775807", "its validity is not the recorded one"),
        ("spki_sha256 = {other}", "its public key is not the recorded one"),
        ("tbs_sha256 = {other}", "it is not the one that was journalled"),
        ("device_id = 'device-44'", "its subject does not begin with the device id"),
        ("device_id = 'device-'", "its subject does not begin with the device id"),
        ("device_id = ''", "its subject does not begin with the device id"),
        ("issuer_key_id = {other}", "its authority key identifier is not the recorded one"),
        ("void_reason = 'lost', voided_at = 1", "its intent is void"),
    ],
)
@pytest.mark.usefixtures("issued")
def test_a_row_that_says_something_else_than_its_certificate_is_named(
    home: Home, change: str, problem: str
) -> None:
    home.change(f"UPDATE intents SET {change.format(other=octets(home, bytes(20)))} WHERE id = 4")
    _, (found,) = look_at_certificates(home)
    assert found.startswith("certificate 4: serial number ")
    assert problem in found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("intents SET serial = 'text' WHERE id = 4", "serial number unknown"),
        ("intents SET device_id = x'00' WHERE id = 4", "its subject does not begin"),
        ("intents SET not_before = 'text' WHERE id = 4", "its validity is not"),
        ("intents SET not_after = 1e300 WHERE id = 4", "its validity is not"),
        ("intents SET spki_sha256 = 'text' WHERE id = 4", "its public key is not"),
        ("intents SET issuer_key_id = 'text' WHERE id = 4", "its authority key identifier is not"),
        ("intents SET device_id = cast(x'ff' AS text) WHERE id = 4", "its subject does not begin"),
        ("certificates SET der = cast(der AS text) WHERE intent_id = 4", "not exactly one certificate"),
        ("certificates SET der = 'text' WHERE intent_id = 4", "not exactly one certificate"),
        ("certificates SET der = 7 WHERE intent_id = 4", "not exactly one certificate"),
        ("certificates SET intent_id = 99 WHERE intent_id = 4", "it has no intent"),
    ],
)
async def test_what_sqlite_stores_besides_is_named(tmp_path: Path, change: str, problem: str) -> None:
    home = SqliteHome(tmp_path)
    await fill(home)
    home.change(f"UPDATE {change}")
    _, (found,) = look_at_certificates(home)
    assert problem in found


def test_certificates_that_were_swapped_are_named(home: Home, issued: list[Certificate]) -> None:
    put(home, 4, issued[4].der)
    put(home, 5, issued[3].der)
    _, found = look_at_certificates(home)
    assert [line.partition(":")[0] for line in found] == ["certificate 4", "certificate 5"]
    assert all("its public key is not the recorded one" in line for line in found)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda der: der + b"\0", "not exactly one certificate"),
        (lambda der: der + der, "not exactly one certificate"),
        (lambda der: der[:-1], "not exactly one certificate"),
        (lambda _: b"", "not exactly one certificate"),
        (lambda _: ISSUER.certificate, "its public key is not the recorded one"),
        (lambda der: der[:-1] + bytes([der[-1] ^ 1]), "it is not signed by CN=test fleet root"),
        (lambda der: der.replace(b"device-4", b"device-5"), "its subject does not begin with the device id"),
        (lambda der: der.replace(b"fleet-0", b"fleet-1"), "it is not the one that was journalled"),
    ],
)
def test_octets_that_were_changed_are_named(
    home: Home, issued: list[Certificate], change: Callable[[bytes], bytes], problem: str
) -> None:
    put(home, 4, change(issued[3].der))
    _, (found, *_) = look_at_certificates(home)
    assert found.startswith("certificate 4: ")
    assert problem in found


async def plant(home: Home, forged: Certificate) -> None:
    """Record a certificate and its row, as whoever writes to the database can."""
    ledger = ledger_in(home, ISSUER.key_identifier)
    await ledger.open()
    await record(ledger, [forged])
    await ledger.close()


async def test_a_certificate_that_another_key_signed_in_the_name_of_the_ca_is_named(
    home: Home, issued: list[Certificate]
) -> None:
    await plant(home, certificate(66, signer=generate_key("ec-p256")))
    result, (found,) = look_at_certificates(home)
    assert "device 'device-66': it is not signed by CN=test fleet root" in found
    assert (result.certificates, result.signatures) == (len(issued) + 1, len(issued))


async def test_a_certificate_of_a_ca_that_is_not_configured_is_named_until_it_has_expired(
    home: Home, issued: list[Certificate]
) -> None:
    stranger = issuer_of("ec-p384")
    identifier = stranger.key_identifier.hex()
    await plant(home, certificate(66, ca="ec-p384"))
    result, (found,) = look_at_certificates(home)
    assert f"device 'device-66': no CA with its key identifier {identifier} is configured" in found
    assert (result.signatures, result.unchecked) == (len(issued), {identifier: 1})
    result, findings = look_at_certificates(home, now=NOW + timedelta(days=366))
    assert (findings, result.unchecked) == ([], {identifier: 1})
    result, findings = look_at_certificates(home, [ISSUER, stranger])
    assert (findings, result.signatures, result.unchecked) == ([], len(issued) + 1, {})


def test_without_any_ca_no_signature_is_called_verified(home: Home, issued: list[Certificate]) -> None:
    put(home, 4, issued[4].der)
    result, (found,) = look_at_certificates(home, [])
    assert "its public key is not the recorded one" in found
    assert (result.signatures, result.unchecked) == (0, {KEY: len(issued)})


@pytest.mark.usefixtures("issued")
def test_a_certificate_whose_crl_nobody_makes_is_named(home: Home) -> None:
    home.change(f"DELETE FROM crl_urls WHERE url = '{SHARDS[1]}'")
    _, (found,) = look_at_certificates(home)
    assert found.startswith(f"certificate 1: it states the CRL '{SHARDS[1]}'")


@pytest.mark.parametrize("url", ["NULL", f"'{SHARDS[0]}'"])
@pytest.mark.usefixtures("issued")
def test_a_revocation_that_was_moved_to_another_crl_is_named(home: Home, url: str) -> None:
    home.change(f"UPDATE revocations SET crl_url = {url} WHERE intent_id = 3")
    _, (found,) = look_at_certificates(home)
    assert found.startswith("certificate 3: ")
    assert "its revocation names the CRL" in found


def test_processes_find_what_one_finds(home: Home, issued: list[Certificate]) -> None:
    put(home, 4, issued[4].der)
    assert look_at_certificates(home, processes=2) == look_at_certificates(home)


@pytest.mark.parametrize("ca", ["rsa-2048", "ed25519", "ec-p384"])
async def test_a_ca_of_each_kind_is_verified(tmp_path: Path, ca: KeyType) -> None:
    home = SqliteHome(tmp_path)
    ledger = ledger_in(home, issuer_of(ca).key_identifier)
    await ledger.open()
    forged = certificate(2, ca=ca, signer=generate_key(ca))
    await record(ledger, [certificate(1, ca=ca), forged])
    await ledger.close()
    result, (found,) = look_at_certificates(home, [issuer_of(ca)])
    assert found.startswith("certificate 2: ")
    assert (result.certificates, result.signatures) == (2, 1)
