"""RSA keys of a whole ledger, compared: which certificates are named, and what could not be looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from otahsm.errors import ConfigError
from otahsm.ledger import Accepted, KeyVerdict, Ledger, RevocationRequest, WeakCertificate, compare_keys
from otahsm.ledger.tree.verdict import MAX_FINDINGS
from otahsm.pki.certificate import Validity
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.keytypes.rsa_pool import Weakness
from otahsm.pki.serial import SerialNumber

from support.acts import by
from support.attacks.forging import RsaKey, key_of, rsa_with_small_factor
from support.authority import CA_LIFE, root_of
from support.homes import Home, SqliteHome
from support.intents import intent
from support.logbook import opened
from support.rsa_keys import certificate_over, primes, private_key

NOW = datetime(2026, 6, 1, tzinfo=UTC)
EXPIRED = Validity(CA_LIFE.not_before, NOW - timedelta(days=1))
SHARED = (Weakness.SHARED_PRIME,)


def spki_of(p: int, q: int, exponent: int = 65537) -> bytes:
    return encode_spki(private_key(p, q, exponent).public_key())


async def record(ledger: Ledger, device: str, der: bytes, key: str = "") -> SerialNumber:
    """Write a certificate into the ledger, whatever it is."""
    wanted = intent(device, key)
    (answer,) = await ledger.journal([wanted])
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: der})
    return wanted.serial


async def revoke(ledger: Ledger, serial: SerialNumber) -> None:
    targets = [RevocationRequest(serial, "", "", "key_compromise")]
    answers = (await ledger.acts.revoke(targets, by("cn:test"), 1)).result
    assert isinstance(answers[0], list)
    assert [revoked.serial for revoked in answers[0]] == [serial]


def compared(home: Home, *authorities: bytes) -> KeyVerdict:
    return compare_keys(home.config, authorities, NOW)


def ca_of(key: rsa.RSAPrivateKey, name: str) -> bytes:
    """Make a root of an RSA key, as another tool would."""
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(named).issuer_name(named).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(CA_LIFE.not_before).not_valid_after(CA_LIFE.not_after)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


async def test_certificates_whose_keys_share_a_prime_are_named_unless_nothing_is_left_to_do(
    home: Home,
) -> None:
    a, b, c, d, e = primes()
    ledger = await opened(home)
    first = await record(ledger, "first", certificate_over(spki_of(a, b), "first"))
    await record(ledger, "sound", certificate_over(spki_of(d, e), "sound"))
    await record(ledger, "ec", certificate_over(encode_spki(key_of("ec-p256").public_key()), "ec"))
    expired = certificate_over(spki_of(a, c), "expired", EXPIRED)
    await record(ledger, "expired", expired)
    await revoke(ledger, await record(ledger, "revoked", certificate_over(spki_of(a, d), "revoked")))
    await ledger.close()
    found = compared(home, root_of("ec-p256"))
    # An expired certificate's key still gives away that of a valid one; and d is a prime of the revoked one.
    assert [weak.device_id for weak in found.to_revoke] == ["first", "sound"]
    assert found.to_revoke[0] == WeakCertificate(first.hex(), "first", "cn:test", SHARED)
    assert (found.certificates, found.rsa_certificates, found.ca_keys, found.moduli) == (5, 4, 0, 4)
    assert (found.settled, found.unread_count, found.good) == (2, 0, False)


async def test_a_ledger_whose_weak_certificates_are_revoked_is_good(home: Home) -> None:
    a, b, c, *_ = primes()
    ledger = await opened(home)
    for device, other in (("one", b), ("two", c)):
        await revoke(ledger, await record(ledger, device, certificate_over(spki_of(a, other), device)))
    await ledger.close()
    found = compared(home)
    assert (found.to_revoke, found.settled, found.good) == ([], 2, True)


async def test_a_ledger_without_rsa_keys_says_how_many_it_has_looked_at(home: Home) -> None:
    ledger = await opened(home)
    for device in ("one", "two"):
        await record(ledger, device, certificate_over(encode_spki(key_of("ed25519").public_key()), device))
    await ledger.close()
    assert compared(home) == KeyVerdict(certificates=2)


async def test_an_empty_ledger_is_good(home: Home) -> None:
    assert compared(home) == KeyVerdict()
    assert compared(home).good


async def test_a_renewed_certificate_is_not_weak_and_the_same_key_of_another_device_is(home: Home) -> None:
    a, b, c, d, _ = primes()
    ledger = await opened(home)
    serials = [
        await record(ledger, device, certificate_over(spki, device), key=f"{device}/{number}")
        for number, (device, spki) in enumerate(
            [("twin-1", spki_of(a, b)), ("twin-2", spki_of(a, b)), ("renewed", spki_of(c, d))]
        )
    ]
    renewal = intent("renewed", "renewed/2", profile="other")
    (answer,) = await ledger.journal([renewal])
    assert isinstance(answer, Accepted)
    await ledger.record({answer.intent_id: certificate_over(spki_of(c, d), "renewed")})
    await ledger.close()
    found = compared(home)
    assert [(weak.serial, weak.why) for weak in found.to_revoke] == [
        (serial.hex(), (Weakness.OTHER_DEVICE,)) for serial in serials[:2]
    ]
    assert (found.rsa_certificates, found.moduli) == (4, 2)


async def test_small_factors_and_other_exponents_are_named(home: Home) -> None:
    a, b, *_ = primes()
    ledger = await opened(home)
    await record(ledger, "small", certificate_over(rsa_with_small_factor(3).spki(), "small"))
    for exponent in (65537, 65539):
        device = f"exponent-{exponent}"
        await record(ledger, device, certificate_over(spki_of(a, b, exponent), device))
    await ledger.close()
    assert {weak.device_id: weak.why for weak in compared(home).to_revoke} == {
        "small": (Weakness.SMALL_FACTOR,),
        "exponent-65537": (Weakness.OTHER_EXPONENT, Weakness.OTHER_DEVICE),
        "exponent-65539": (Weakness.OTHER_EXPONENT, Weakness.OTHER_DEVICE),
    }


async def test_the_keys_of_cas_are_compared_with_those_of_devices(home: Home) -> None:
    a, b, c, d, e = primes()
    ledger = await opened(home)
    await record(ledger, "sharing", certificate_over(spki_of(a, c), "sharing"))
    await ledger.close()
    weak, sound = ca_of(private_key(a, b), "weak"), ca_of(private_key(d, e), "sound")
    found = compared(home, weak, sound, weak)
    assert found.weak_cas == {"CN=weak": SHARED}
    assert (found.ca_keys, found.moduli, found.good) == (2, 3, False)
    assert [item.device_id for item in found.to_revoke] == ["sharing"]


async def test_what_can_not_be_read_is_counted_and_named(home: Home) -> None:
    ledger = await opened(home)
    serial = await record(ledger, "damaged", b"no certificate")
    await record(ledger, "absurd", certificate_over(RsaKey(0, 3, 1).spki(), "absurd"))
    await ledger.close()
    found = compared(home)
    assert found.unread == [
        f"the certificate of intent 1, serial number {serial.hex()}, device 'damaged'",
        next(name for name in found.unread if "'absurd'" in name),
    ]
    assert (found.unread_count, found.certificates, found.good) == (2, 0, False)


async def test_only_so_many_that_can_not_be_read_are_named(home: Home) -> None:
    ledger = await opened(home)
    answers = await ledger.journal([intent(f"device-{n}") for n in range(MAX_FINDINGS + 1)])
    await ledger.record({answer.intent_id: b"x" for answer in answers if isinstance(answer, Accepted)})
    await ledger.close()
    found = compared(home)
    assert (len(found.unread), found.unread_count) == (MAX_FINDINGS, MAX_FINDINGS + 1)


async def test_rows_that_somebody_changed_or_removed_are_not_passed_over(tmp_path: Path) -> None:
    home = SqliteHome(tmp_path)  # SQLite takes any value into any column
    a, b, c, d, _ = primes()
    ledger = await opened(home)
    for device, (p, q) in {"text": (c, d), "number": (c, d), "serial": (a, b), "gone": (a, c)}.items():
        await record(ledger, device, certificate_over(spki_of(p, q), device))
    await ledger.close()
    home.change(
        "UPDATE certificates SET der = 'text' WHERE intent_id = 1",
        "UPDATE certificates SET der = 5 WHERE intent_id = 2",
        "UPDATE intents SET serial = 'text' WHERE id = 3",
        "DELETE FROM intents WHERE id = 4",
    )
    found = compared(home)
    assert (found.unread_count, found.certificates) == (2, 2)
    assert found.to_revoke == [
        WeakCertificate("unknown", "serial", "cn:test", SHARED),
        WeakCertificate("unknown", "unknown", "unknown", SHARED),
    ]


def test_a_ledger_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no ledger"):
        compared(SqliteHome(tmp_path))
