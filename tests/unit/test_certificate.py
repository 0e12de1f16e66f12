"""Device certificates: whatever is certified, whoever signs and whenever, it is the profile's contract."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otahsm.errors import AuthorityUnusableError
from otahsm.pki.certificate import Validity, validity_at, validity_of
from otahsm.pki.keytypes import KeyType, PublicKey, signature_is_valid
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.names import check_device_id
from otahsm.pki.profile import Profile

from support.attacks.forging import key_of
from support.authority import CA_LIFE, KEY_TYPES, SMALL_KEY_TYPES, issuer_of, leaf
from support.examples import examples

PROFILE = Profile()
EXTENSIONS = {
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: True,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
}
# cryptography warns of a common name above RFC 5280's 64 characters; the default profile allows 128.
long_names = pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")

device_ids = st.from_regex(PROFILE.device_id.pattern, fullmatch=True).filter(lambda text: ".." not in text)
serials = st.integers(1, 2**159 - 1)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
lives = st.tuples(moments, moments).map(lambda pair: Validity(*sorted(pair)))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def check_leaf(
    der: bytes, device_id: str, key_type: KeyType, ca: KeyType, serial: int, validity: Validity
) -> None:
    """Check every field with two readers that know nothing of otahsm."""
    issuer = issuer_of(ca)
    spki = encode_spki(key_of(key_type).public_key())

    strict = asn1_x509.Certificate.load(der, strict=True)
    tbs = strict["tbs_certificate"]
    ((attribute,),) = tbs["subject"].chosen
    assert attribute["type"].native == "common_name"
    assert attribute["value"].name == "utf8_string"
    assert attribute["value"].native == device_id
    for name, moment in zip(("not_before", "not_after"), validity, strict=True):
        assert tbs["validity"][name].native == moment
        assert tbs["validity"][name].name == ("utc_time" if moment.year < 2050 else "general_time")
    assert tbs["subject_public_key_info"].dump() == spki
    assert tbs["signature"].dump() == strict["signature_algorithm"].dump() == issuer.algorithm.identifier
    assert [extension["extn_id"].dotted for extension in tbs["extensions"]] == [
        oid.dotted_string for oid in EXTENSIONS
    ]
    assert strict.dump(force=True) == der  # strict DER: also, no DEFAULT FALSE is written out

    certificate = x509.load_der_x509_certificate(der)
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == serial
    assert [name.value for name in certificate.subject] == [device_id]
    assert certificate.issuer.public_bytes() == issuer.subject
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == validity
    assert certificate.public_key() == key_of(key_type).public_key()
    assert {extension.oid: extension.critical for extension in certificate.extensions} == EXTENSIONS
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.public_bytes() == bytes.fromhex("03020780")  # digitalSignature, nothing else
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert own == x509.SubjectKeyIdentifier.from_public_key(key_of(key_type).public_key())
    above = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert above == x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None)
    assert signature_is_valid(
        issuer.public_key, issuer.algorithm, certificate.signature, certificate.tbs_certificate_bytes
    )


@long_names
@settings(max_examples=examples(300), deadline=None)
@given(device_ids, st.sampled_from(SMALL_KEY_TYPES), st.sampled_from(SMALL_KEY_TYPES), serials, lives)
@example("a", "ed25519", "ec-p256", 1, Validity(at("2049-12-31 23:59:59"), at("2050-01-01")))
@example("a", "ec-p256", "rsa-2048", 127, Validity(at("2050-01-01"), at("2050-01-01")))
@example("a", "ec-p256", "ed25519", 128, Validity(at("2024-02-29 12:00:00"), at("2049-12-31 23:59:59")))
@example(
    "a", "ec-p384", "ec-p384", 2**159 - 1, Validity(at("1970-01-01 00:00:00"), at("9999-12-31 23:59:59"))
)
def test_any_device_gets_exactly_what_the_profile_says(
    device_id: str, key_type: KeyType, ca: KeyType, serial: int, validity: Validity
) -> None:
    der = leaf(device_id, key_type, ca=ca, serial=serial, validity=validity)
    check_leaf(der, device_id, key_type, ca, serial, validity)


@long_names
@pytest.mark.parametrize("length", range(1, 129))
def test_every_length_of_a_device_id_is_encoded_rightly(length: int) -> None:
    device_id = "d" * length  # its length octets change at 128 bytes of content, in each layer at another id
    check_device_id(device_id, PROFILE.device_id)
    der = leaf(device_id, "ed25519", ca="ed25519", serial=1, validity=CA_LIFE)
    check_leaf(der, device_id, "ed25519", "ed25519", 1, CA_LIFE)


@pytest.mark.parametrize("ca", KEY_TYPES)
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_every_key_type_is_certified_by_every_kind_of_ca(key_type: KeyType, ca: KeyType) -> None:
    check_leaf(leaf("device", key_type, ca=ca, serial=7), "device", key_type, ca, 7, CA_LIFE)


def test_a_profile_with_other_usages_gets_those() -> None:
    profile = Profile(
        key_usage=frozenset({"digital_signature", "key_agreement"}),
        extended_key_usage=("server_auth", "client_auth"),
    )
    extensions = x509.load_der_x509_certificate(leaf("device", "ec-p256", profile=profile)).extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_agreement, usage.key_encipherment) == (True, True, False)
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]


@settings(max_examples=examples(500), deadline=None)
@given(
    moments.filter(lambda moment: 1971 <= moment.year < 9900),
    st.integers(0, 3 * 365 * 86400),
    st.integers(0, 3 * 365 * 86400),
    st.integers(1, 800),
    st.integers(0, 10080),
)
def test_a_certificate_never_outlives_its_issuer_at_either_end(
    now: datetime, age: int, rest: int, days: int, backdate: int
) -> None:
    issuer = dataclasses.replace(
        issuer_of("ed25519"),
        not_before=now - timedelta(seconds=age),
        not_after=now + timedelta(seconds=rest),
    )
    profile = Profile(validity=timedelta(days=days), backdate=timedelta(minutes=backdate))
    begin, end = validity_at(now, profile, issuer)
    assert issuer.not_before <= begin <= now <= end <= issuer.not_after
    assert begin in (issuer.not_before, now - timedelta(minutes=backdate))
    assert end in (issuer.not_after, now + timedelta(days=days))


@pytest.mark.parametrize(
    "now", [CA_LIFE.not_before - timedelta(seconds=1), CA_LIFE.not_after + timedelta(seconds=1)]
)
def test_an_issuer_that_is_not_valid_now_issues_nothing(now: datetime) -> None:
    with pytest.raises(AuthorityUnusableError) as raised:
        validity_at(now, PROFILE, issuer_of("ed25519"))
    assert f"{now:%Y-%m-%d %H:%M:%S}" in raised.value.message
    assert "clock" in raised.value.hint


@pytest.mark.parametrize("now", CA_LIFE)
def test_an_issuer_issues_in_its_first_and_its_last_second(now: datetime) -> None:
    begin, end = validity_at(now, PROFILE, issuer_of("ed25519"))
    assert CA_LIFE.not_before <= begin <= now <= end <= CA_LIFE.not_after


def test_a_validity_is_in_utc_and_whole_seconds_whatever_the_clock_says() -> None:
    there = datetime(2026, 3, 1, 1, 30, 15, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    validity = validity_at(there, PROFILE, issuer_of("ed25519"))
    assert validity == Validity(at("2026-02-28 19:00:15"), at("2027-02-28 20:00:15"))
    assert [moment.utcoffset() for moment in validity] == [timedelta(0)] * 2


@given(lives)
def test_a_validity_survives_being_written_as_seconds(validity: Validity) -> None:
    assert validity_of(*(int(moment.timestamp()) for moment in validity)) == validity


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_signature_of_another_message_key_or_length_is_not_valid(key_type: KeyType) -> None:
    issuer = issuer_of(key_type)
    certificate = x509.load_der_x509_certificate(issuer.certificate)
    message, signature = certificate.tbs_certificate_bytes, certificate.signature
    other: PublicKey = key_of("ec-p256" if key_type == "ed25519" else "ed25519").public_key()
    assert signature_is_valid(issuer.public_key, issuer.algorithm, signature, message)
    assert not signature_is_valid(issuer.public_key, issuer.algorithm, signature, message + b"\0")
    assert not signature_is_valid(issuer.public_key, issuer.algorithm, signature[:-1], message)
    assert not signature_is_valid(issuer.public_key, issuer.algorithm, b"", message)
    assert not signature_is_valid(other, issuer.algorithm, signature, message)


def test_the_key_identifier_is_the_hash_of_the_keys_bits() -> None:
    point = encode_spki(key_of("ec-p256").public_key())[-65:]
    identifier = x509.load_der_x509_certificate(leaf("device", "ec-p256")).extensions
    digest = identifier.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert digest == hashlib.sha1(point, usedforsecurity=False).digest()
