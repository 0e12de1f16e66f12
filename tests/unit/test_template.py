"""A template filled in is byte for byte the field-by-field build, for every profile and every length."""

from __future__ import annotations

import dataclasses
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import x509 as asn1_x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otahsm.config.subject import parse_subject
from otahsm.errors import AuthorityUnusableError
from otahsm.pki.certificate import Binding, Validity, build_tbs, validity_at
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.keytypes import KeyType
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import DEFAULT_DEVICE_ID, KeyUsage, Profile
from otahsm.pki.serial import SerialNumber, make_serial
from otahsm.pki.subject import SubjectTemplate
from otahsm.pki.template import ProfileTemplate, TbsTemplate, Terms

from support.attacks.forging import key_of
from support.authority import CA_LIFE, KEY_TYPES, SMALL_KEY_TYPES, issuer_of
from support.examples import examples

PROFILES = (
    Profile(),
    Profile(
        key_usage=frozenset[KeyUsage]({"digital_signature", "key_agreement"}),
        extended_key_usage=("server_auth", "client_auth"),
    ),
    Profile(key_usage=frozenset[KeyUsage]({"non_repudiation"}), extended_key_usage=("server_auth",)),
)
device_ids = st.from_regex(DEFAULT_DEVICE_ID, fullmatch=True).filter(lambda text: ".." not in text)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
lives = st.tuples(moments, moments).map(lambda pair: Validity(*sorted(pair)))
usages = st.frozensets(
    st.sampled_from(["digital_signature", "key_encipherment", "key_agreement", "non_repudiation"]), min_size=1
)
# Length octets change at 128 octets of content, in each layer of the extension at another length of the URL.
urls = st.none() | st.integers(1, 220).map(lambda length: "http://crl.example.com/" + "x" * length)
purposes = st.lists(st.sampled_from(["client_auth", "server_auth"]), min_size=1, max_size=2, unique=True)
profiles = st.builds(Profile, key_usage=usages, extended_key_usage=purposes.map(tuple))
printable = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=64
).filter(lambda text: "CN=" not in text.upper() and len(unicodedata.normalize("NFC", text)) <= 64)
subjects = st.lists(
    st.tuples(st.sampled_from(["O", "OU", "L", "ST", "title", "businessCategory"]), printable), max_size=4
)


def csr_of(device_id: str, key_type: KeyType) -> Binding:
    return Binding(device_id, encode_spki(key_of(key_type).public_key()))


@settings(max_examples=examples(500), deadline=None)
@given(
    device_ids,
    st.sampled_from(SMALL_KEY_TYPES),
    st.sampled_from(SMALL_KEY_TYPES),
    st.integers(1, 2**159 - 1),
    lives,
    profiles,
    urls,
    subjects,
)
@example("a", "ed25519", "ec-p256", 127, CA_LIFE, PROFILES[0], None, [])
@example("a", "ed25519", "ec-p256", 128, CA_LIFE, PROFILES[0], None, [])
@example("a", "ed25519", "ec-p256", 2**159 - 1, CA_LIFE, PROFILES[0], None, [])
def test_a_filled_template_is_the_field_by_field_build(  # noqa: PLR0913 - all that can vary
    device_id: str,
    key_type: KeyType,
    ca: KeyType,
    serial: int,
    validity: Validity,
    profile: Profile,
    url: str | None,
    subject: list[tuple[str, str]],
) -> None:
    issuer, csr = issuer_of(ca), csr_of(device_id, key_type)
    parts = parse_subject(f"{kind}={{a{number}}}" for number, (kind, _) in enumerate(subject))
    said = [(f"a{number}", value) for number, (_, value) in enumerate(subject)]
    others = SubjectTemplate(parts).fill(said)
    filled = TbsTemplate(profile, issuer, url).fill(csr, serial, validity, others)
    assert filled == build_tbs(csr, profile, issuer, serial, validity, url, others)
    assert asn1_x509.TbsCertificate.load(filled, strict=True).dump(force=True) == filled


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_every_length_of_a_device_id_fits_every_profile(profile: Profile, key_type: KeyType) -> None:
    issuer = issuer_of("ec-p256")
    template = TbsTemplate(profile, issuer)
    for length in range(1, 129):  # length octets change at 128 and at 256 octets of content, in each layer
        csr = csr_of("d" * length, key_type)
        assert template.fill(csr, length, CA_LIFE) == build_tbs(csr, profile, issuer, length, CA_LIFE)


def test_every_length_of_a_crls_url_fits() -> None:
    issuer, csr = issuer_of("ec-p256"), csr_of("device", "ed25519")
    for length in range(1, 233):
        url = "http://crl.example.com/" + "x" * length
        filled = TbsTemplate(PROFILES[0], issuer, url).fill(csr, length, CA_LIFE)
        assert filled == build_tbs(csr, PROFILES[0], issuer, length, CA_LIFE, url)


def test_a_template_takes_the_issuer_as_it_is() -> None:
    csr, profile = csr_of("device", "ed25519"), PROFILES[0]
    same_key, other = issuer_of("ed25519"), dataclasses.replace(issuer_of("ed25519"), key_identifier=bytes(8))
    for issuer in (same_key, other):
        assert TbsTemplate(profile, issuer).fill(csr, 1, CA_LIFE) == build_tbs(
            csr, profile, issuer, 1, CA_LIFE
        )


def serial_at(moment: datetime, random: int) -> SerialNumber:
    return make_serial((random + 2**111).to_bytes(14, "big"), int(moment.timestamp() * 1000))


@pytest.mark.parametrize(
    "crls",
    [
        None,
        CrlLocation("http://crl.example.com/fleet.crl"),
        CrlLocation("http://crl.example.com/fleet-{shard}.crl", shards=4),
    ],
    ids=["no CRL", "one CRL", "four shards"],
)
def test_all_of_a_certificate_follows_from_the_terms_and_its_serial_number(crls: CrlLocation | None) -> None:
    issuer, now = issuer_of("ec-p256"), datetime(2026, 11, 30, 12, 0, 0, 999_000, tzinfo=UTC)
    profile = Profile(subject=parse_subject(["O=Acme", "OU={plant}"]))
    template = ProfileTemplate(Terms(profile, issuer, crls))
    others = SubjectTemplate(profile.subject).fill([("plant", "Ulm")])
    for random in range(8):
        serial, binding = serial_at(now, random), csr_of(f"device-{random}", "ec-p256")
        url = crls.url(random % crls.shards) if crls else None
        expected = build_tbs(binding, profile, issuer, serial, validity_at(now, profile, issuer), url, others)
        assert template.fill(serial, binding, [("plant", "Ulm")]) == expected


def test_no_certificate_follows_from_a_time_at_which_the_issuer_is_not_valid() -> None:
    template = ProfileTemplate(Terms(Profile(), issuer_of("ec-p256"), None))
    late = serial_at(CA_LIFE.not_after + timedelta(seconds=1), 0)
    with pytest.raises(AuthorityUnusableError, match="is valid from"):
        template.fill(late, csr_of("device", "ec-p256"))
