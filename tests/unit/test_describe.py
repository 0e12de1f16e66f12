"""`otahsm show` in words: certificates and CSRs, in PEM and in DER."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from asn1crypto import pem
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.cli.output.fields import print_descriptions
from otahsm.errors import ConfigError
from otahsm.pki.der import tlv
from otahsm.pki.descriptions import describe
from otahsm.pki.serial import SerialNumber

from support.attacks.forging import extension, forge, key_of, named, wish
from support.attacks.hostile import ALT_NAME, CA_TRUE, HOSTILE, KEY_USAGE, UNKNOWN
from support.authority import CA_NAME, KEY_TYPES, SERIAL, leaf, root_of
from support.examples import examples


def armour(der: bytes, label: str = "CERTIFICATE") -> bytes:
    armoured: bytes = pem.armor(label, der)
    return armoured


def test_a_device_certificate_is_told_field_by_field() -> None:
    der = leaf("device-1", "ec-p384")
    (description,) = describe(der)
    assert description.title == "Certificate"
    identifier = x509.SubjectKeyIdentifier.from_public_key(key_of("ec-p384").public_key()).digest
    issuer = x509.SubjectKeyIdentifier.from_public_key(key_of("ec-p256").public_key()).digest
    digest = str(description.fields.pop("SHA-256"))
    assert bytes.fromhex(digest.replace(":", "")).hex(":") == digest
    assert description.fields == {
        "subject": "CN=device-1",
        "issuer": f"CN={CA_NAME}",
        "serial": SerialNumber(SERIAL).hex(),
        "valid from": datetime(2020, 1, 1, tzinfo=UTC),
        "valid until": datetime(2090, 12, 31, 23, 59, 59, tzinfo=UTC),
        "public key": "ec-p384",
        "signed with": "ecdsa-with-SHA256 (1.2.840.10045.4.3.2)",
        "key usage": "digital signature, critical",
        "extended key usage": "clientAuth, critical",
        "subject key identifier": identifier.hex(":"),
        "authority key identifier": issuer.hex(":"),
    }


def test_times_are_rfc_3339_for_programs_and_plain_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    described = describe(leaf("device-1", "ec-p256"))
    print_descriptions(described, as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["valid until"] == "2090-12-31T23:59:59Z"
    print_descriptions(described, as_json=False)
    assert "valid until               2090-12-31 23:59:59 UTC\n" in capsys.readouterr().out


def test_a_device_certificate_tells_where_its_crl_is() -> None:
    (description,) = describe(leaf("device-1", "ec-p256", crl_url="http://crl.example.com/fleet-3.crl"))
    assert description.fields["crl distribution points"] == "http://crl.example.com/fleet-3.crl"


def test_a_root_is_a_ca_and_its_own_issuer() -> None:
    (description,) = describe(root_of("rsa-2048"))
    assert description.fields["issuer"] == f"CN={CA_NAME} (itself)"
    assert description.fields["basic constraints"] == "a CA with at most 0 CAs below it, critical"
    assert description.fields["key usage"] == "key cert sign, crl sign, critical"
    assert description.fields["public key"] == "rsa-2048"


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_every_kind_of_root_is_described(key_type: str) -> None:
    (kind,) = [item for item in KEY_TYPES if item == key_type]
    for der, constraints in (
        (root_of(kind), "a CA with at most 0 CAs below it, critical"),
        (root_of(kind, "root-here"), "a CA"),
    ):
        (description,) = describe(der)
        assert description.fields["public key"] == key_type
        assert description.fields["basic constraints"] == constraints


def test_everything_in_a_pem_file_is_described_in_order() -> None:
    content = (
        armour(leaf("device-1", "ed25519"))
        + b"some text\n"
        + armour(forge(named("device-2")), "CERTIFICATE REQUEST")
        + armour(forge(named("device-3")), "NEW CERTIFICATE REQUEST")
        + armour(root_of("ec-p256"))
    )
    assert [(item.title, item.fields["subject"]) for item in describe(content)] == [
        ("Certificate", "CN=device-1"),
        ("Certificate signing request", "CN=device-2"),
        ("Certificate signing request", "CN=device-3"),
        ("Certificate", f"CN={CA_NAME}"),
    ]


def test_a_csr_tells_whether_possession_is_proven() -> None:
    (good,) = describe(forge(named("device-1")))
    assert str(good.fields["possession"]).startswith("proven")
    (bad,) = describe(HOSTILE["signature: another key's"].build())
    assert str(bad.fields["possession"]).startswith("NOT PROVEN")


def test_a_csr_tells_what_it_asks_for() -> None:
    (description,) = describe(forge(named("device-1"), wish(CA_TRUE, ALT_NAME, UNKNOWN)))
    wishes = {name: value for name, value in description.fields.items() if name.startswith("asks for ")}
    assert wishes == {
        "asks for basic constraints": "a CA, critical",
        "asks for subject alternative name": "a",
        "asks for 1.3.6.1.4.1.99999.1": "05:00, critical",
    }


def test_a_key_that_is_never_certified_is_still_described() -> None:
    (description,) = describe(HOSTILE["key: EC on secp256k1"].build())
    assert description.fields["public key"] == "EC on secp256k1"


def test_an_extension_of_a_rarer_kind_is_shown_as_bytes() -> None:
    policy = bytes.fromhex("3007300506032a0304")
    (description,) = describe(forge(named("device-1"), wish(extension("2.5.29.32", policy))))
    assert description.fields["asks for certificate policies"] == policy.hex(":")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        leaf("device-1", "ec-p256")[:-1],
        leaf("device-1", "ec-p256") + b"\0",
    ],
    ids=["nothing", "text", "PEM of garbage", "CSR of garbage", "a key", "cut off", "more after it"],
)
def test_a_file_with_neither_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="neither a certificate nor a CSR") as raised:
        describe(content)
    assert "PEM" in raised.value.hint


def test_a_negative_serial_number_is_shown_with_its_sign() -> None:
    certificate = leaf("device-1", "ec-p256")
    positive = tlv(0x02, SERIAL.to_bytes(8, "big"))
    negative = tlv(0x02, (-SERIAL).to_bytes(8, "big", signed=True))
    assert certificate.count(positive) == 1
    (description,) = describe(certificate.replace(positive, negative))
    assert description.fields["serial"] == "-" + SerialNumber(SERIAL).hex()


SOUND = (leaf("device-1", "ec-p256"), forge(named("device-1"), wish(CA_TRUE, ALT_NAME, KEY_USAGE)))


# cryptography warns of a damaged name, serial number or algorithm that it reads all the same.
@pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=examples(1000), deadline=None)
@given(st.data())
def test_a_damaged_file_is_described_or_refused_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SOUND)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert describe(bytes(content))
    except ConfigError:
        return
