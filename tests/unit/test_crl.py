"""CRLs: octet for octet what asn1crypto builds, and what three other readers find in them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest
from asn1crypto import crl as asn1_crl
from asn1crypto import pem
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pkilint import loader, pkix
from pkilint.pkix import crl as pkix_crl
from pkilint.pkix import extension as pkix_extension
from pkilint.pkix import name as pkix_name
from pkilint.validation import ValidationFindingSeverity

from otahsm.errors import RequestRefusedError
from otahsm.pki.crls.building import Reason, RevokedCertificate, build_tbs_crl
from otahsm.pki.crls.reading import CrlDescription, check_crl_signature, describe_crl, entries_of
from otahsm.pki.keytypes import KeyType

from support.authority import CA_NAME, CRL_MADE, KEY_TYPES, SMALL_KEY_TYPES, crl, issuer_of, leaf
from support.examples import examples

URL = "http://crl.example.com/fleet-17.crl"
WEEK = timedelta(days=7)
LINTER = pkix_crl.create_pkix_crl_validator_container(
    [
        pkix.create_attribute_decoder(pkix_name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(pkix_extension.EXTENSION_MAPPINGS),
    ],
    [
        pkix_crl.create_issuer_validator_container([]),
        pkix_crl.create_validity_validator_container([]),
        pkix_crl.create_extensions_validator_container([]),
    ],
)

moments = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
# Every length of a serial number, and those whose first bit needs an octet of its own.
serials = st.integers(1, 159).flatmap(lambda bits: st.integers(1 << bits - 1, (1 << bits) - 1))
entries = st.lists(
    st.builds(RevokedCertificate, serials, moments, st.sampled_from(Reason)),
    max_size=40,  # length octets change at 128 and at 256 octets of content: after 3 and 6 entries
    unique_by=lambda entry: entry.serial,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def revoked(
    serial: int, when: str = "2026-02-28 01:02:03", reason: Reason | None = None
) -> RevokedCertificate:
    return RevokedCertificate(serial, at(when), reason or Reason.UNSPECIFIED)


def asn1_time(moment: datetime) -> asn1_x509.Time:
    return asn1_x509.Time({"utc_time" if moment.year < 2050 else "general_time": moment})


def asn1_extension(name: str, value: object, *, critical: bool = False) -> dict[str, object]:
    return {"extn_id": name, "critical": critical, "extn_value": value}


def object_by_object(
    listed: list[RevokedCertificate],
    ca: KeyType,
    number: int,
    updates: tuple[datetime, datetime],
    point: dict[str, object] | None,
) -> bytes:
    """Build a TBSCertList as asn1crypto alone would."""
    issuer = issuer_of(ca)
    identifier = asn1_x509.AuthorityKeyIdentifier({"key_identifier": issuer.key_identifier})
    extensions = [
        asn1_extension("authority_key_identifier", identifier),
        asn1_extension("crl_number", asn1_crl.Integer(number)),
    ]
    if point is not None:
        value = asn1_crl.IssuingDistributionPoint(point)
        extensions.append(asn1_extension("issuing_distribution_point", value, critical=True))
    fields: dict[str, object] = {
        "version": "v2",
        "signature": asn1_crl.SignedDigestAlgorithm.load(issuer.algorithm.identifier),
        "issuer": asn1_x509.Name.load(issuer.subject),
        "this_update": asn1_time(updates[0]),
        "next_update": asn1_time(updates[1]),
        "crl_extensions": extensions,
    }
    if listed:
        fields["revoked_certificates"] = [
            {"user_certificate": serial, "revocation_date": asn1_time(when)}
            if reason is Reason.UNSPECIFIED
            else {
                "user_certificate": serial,
                "revocation_date": asn1_time(when),
                "crl_entry_extensions": [asn1_extension("crl_reason", asn1_crl.CRLReason(reason.value))],
            }
            for serial, when, reason in sorted(listed)
        ]
    encoded: bytes = asn1_crl.TbsCertList(fields).dump()
    return encoded


@settings(max_examples=examples(500), deadline=None)
@given(
    entries,
    st.sampled_from(SMALL_KEY_TYPES),
    st.integers(0, 2**159 - 1),
    st.lists(moments, min_size=2, max_size=2, unique=True),
    st.sampled_from(["complete", "shard", "authorities"]),
)
@example([], "ec-p256", 0, [at("2049-12-31 23:59:59"), at("2050-01-01")], "complete")
@example([revoked(127), revoked(128)], "ed25519", 127, [at("1950-01-01"), at("1950-01-02")], "shard")
@example(
    [revoked(1, "2049-12-31 23:59:59"), revoked(2, "2050-01-01"), revoked(3, "1999-12-31 23:59:59")],
    "rsa-2048",
    128,
    [at("2050-01-01"), at("9999-12-31 23:59:59")],
    "authorities",
)
def test_a_crl_is_what_asn1crypto_builds_object_by_object(
    listed: list[RevokedCertificate], ca: KeyType, number: int, updates: list[datetime], scope: str
) -> None:
    earlier, later = sorted(updates)
    built = build_tbs_crl(
        issuer_of(ca),
        iter(listed),
        number=number,
        this_update=earlier,
        next_update=later,
        distribution_point=URL if scope == "shard" else None,
        only_authorities=scope == "authorities",
    )
    name = asn1_x509.GeneralName("uniform_resource_identifier", URL)
    points: dict[str, dict[str, object] | None] = {
        "complete": None,
        "shard": {
            "distribution_point": asn1_x509.DistributionPointName("full_name", [name]),
            "only_contains_user_certs": True,
        },
        "authorities": {"only_contains_ca_certs": True},
    }
    assert built == object_by_object(listed, ca, number, (earlier, later), points[scope])
    assert asn1_crl.TbsCertList.load(built, strict=True).dump(force=True) == built


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 1200, 1300])
def test_every_length_of_the_list_is_encoded_rightly(count: int) -> None:
    # The list's length takes one more octet from 128, 256 and 65,536 octets of content on.
    listed = [revoked((1 << 150) + number, reason=Reason.SUPERSEDED) for number in range(count)]
    updates = (CRL_MADE, CRL_MADE + WEEK)
    built = build_tbs_crl(
        issuer_of("ec-p256"), listed, number=1, this_update=updates[0], next_update=updates[1]
    )
    assert built == object_by_object(listed, "ec-p256", 1, updates, None)


@settings(max_examples=examples(100), deadline=None)
@given(entries, st.sampled_from(SMALL_KEY_TYPES), st.integers(0, 2**159 - 1))
def test_another_reader_finds_each_certificate_since_when_and_why(
    listed: list[RevokedCertificate], ca: KeyType, number: int
) -> None:
    read = x509.load_der_x509_crl(crl(listed, ca=ca, number=number, url=URL))
    assert read.is_signature_valid(issuer_of(ca).public_key)
    assert read.issuer.public_bytes() == issuer_of(ca).subject
    assert (read.last_update_utc, read.next_update_utc) == (CRL_MADE, CRL_MADE + WEEK)
    assert {extension.oid: extension.critical for extension in read.extensions} == {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
        ExtensionOID.CRL_NUMBER: False,
        ExtensionOID.ISSUING_DISTRIBUTION_POINT: True,
    }
    found = []
    for entry in read:
        reasons = [extension.value for extension in entry.extensions]
        assert all(isinstance(reason, x509.CRLReason) for reason in reasons)
        assert not any(extension.critical for extension in entry.extensions)
        names = [reason.reason.name for reason in reasons if isinstance(reason, x509.CRLReason)]
        found.append((entry.serial_number, entry.revocation_date_utc, names))
    assert entries_of(crl(listed, ca=ca, number=number, url=URL)) == sorted(listed)
    assert found == [
        (serial, when, [] if reason is Reason.UNSPECIFIED else [reason.value])
        for serial, when, reason in sorted(listed)
    ]


def test_the_same_certificates_make_the_same_crl_in_whatever_order_they_come() -> None:
    listed = [revoked(serial) for serial in range(1, 100)]
    shuffled = random.Random(1).sample(listed, len(listed))  # noqa: S311 - the same order in every run
    assert shuffled != listed
    assert crl(shuffled, ca="ed25519") == crl(listed, ca="ed25519")


def test_a_certificate_that_is_revoked_twice_is_an_error_however_often_the_reason_changes() -> None:
    with pytest.raises(ValueError, match="0xabc comes twice"):
        crl([revoked(0xABC), revoked(1), revoked(0xABC, reason=Reason.KEY_COMPROMISE)])


@pytest.mark.parametrize("serial", [0, -1, -(1 << 64)])
def test_a_serial_number_that_is_not_positive_is_an_error(serial: int) -> None:
    with pytest.raises(ValueError, match="not positive"):
        crl([revoked(serial), revoked(5)])


@pytest.mark.parametrize("life", [timedelta(0), timedelta(seconds=-1)])
def test_the_next_crl_comes_after_this_one(life: timedelta) -> None:
    with pytest.raises(ValueError, match="followed by"):
        crl(life=life)


@pytest.mark.parametrize("number", [-1, 1 << 159, 1 << 160])
def test_a_crl_number_that_does_not_fit_into_20_octets_is_an_error(number: int) -> None:
    with pytest.raises(ValueError, match="no CRL number"):
        crl(number=number)


ODD_TIMES = [
    CRL_MADE.replace(microsecond=1),
    CRL_MADE.astimezone(timezone(timedelta(hours=1))),
    CRL_MADE.replace(tzinfo=None),
    datetime(1949, 12, 31, 23, 59, 59, tzinfo=UTC),
]


@pytest.mark.parametrize("when", ODD_TIMES, ids=["fraction", "another zone", "no zone", "before 1950"])
def test_a_time_that_x509_can_not_hold_is_an_error(when: datetime) -> None:
    with pytest.raises(ValueError, match="UTC and whole seconds"):
        crl([RevokedCertificate(1, when, Reason.SUPERSEDED)])
    with pytest.raises(ValueError, match="UTC and whole seconds"):
        crl(made=when)


def test_a_crl_of_a_shard_can_not_be_that_of_the_authorities() -> None:
    with pytest.raises(ValueError, match="holds no CA certificates"):
        crl(url=URL, only_authorities=True)


def test_reasons_have_the_numbers_of_the_rfc_and_none_can_be_taken_back() -> None:
    assert {reason.value: reason.code for reason in Reason} == {
        "unspecified": 0,
        "key_compromise": 1,
        "ca_compromise": 2,
        "affiliation_changed": 3,
        "superseded": 4,
        "cessation_of_operation": 5,
        "privilege_withdrawn": 9,
        "aa_compromise": 10,
    }


@pytest.mark.parametrize("ca", KEY_TYPES)
def test_a_crl_says_what_was_put_into_it(ca: KeyType) -> None:
    listed = [revoked(serial) for serial in (3, 1, 2)]
    identifier = issuer_of(ca).key_identifier
    life = (CRL_MADE, CRL_MADE + WEEK)
    complete = crl(listed, ca=ca, number=7)
    for form in (complete, pem.armor("X509 CRL", complete)):
        check_crl_signature(form, issuer_of(ca))
        assert describe_crl(form) == CrlDescription(
            f"CN={CA_NAME}", 7, *life, None, only_devices=False, only_authorities=False,
            key_identifier=identifier, revoked=3,
        )  # fmt: skip
    shard = describe_crl(crl(listed[:1], ca=ca, number=8, url=URL))
    assert (shard.number, shard.distribution_point, shard.revoked) == (8, URL, 1)
    assert (shard.only_devices, shard.only_authorities) == (True, False)
    authorities = describe_crl(crl(ca=ca, only_authorities=True))
    assert (authorities.distribution_point, authorities.revoked) == (None, 0)
    assert (authorities.only_devices, authorities.only_authorities) == (False, True)


def test_a_crl_of_someone_else_may_say_less() -> None:
    full = asn1_crl.CertificateList.load(crl([revoked(1)]))
    fields = full["tbs_cert_list"]
    fields["next_update"] = fields["crl_extensions"] = None
    assert describe_crl(full.dump(force=True)) == CrlDescription(
        f"CN={CA_NAME}", None, CRL_MADE, None, None, only_devices=False, only_authorities=False,
        key_identifier=None, revoked=1,
    )  # fmt: skip


NO_CRLS = {
    "nothing": b"",
    "text": b"text",
    "PEM of garbage": b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    "a certificate": leaf("device", "ec-p256"),
    "PEM of a certificate": pem.armor("CERTIFICATE", leaf("device", "ec-p256")),
    "cut off": crl()[:-1],
    "more after it": crl() + b"\0",
}


@pytest.mark.parametrize("content", NO_CRLS.values(), ids=NO_CRLS)
def test_a_file_without_a_crl_is_refused(content: bytes) -> None:
    for read in (describe_crl, entries_of, lambda der: check_crl_signature(der, issuer_of("ec-p256"))):
        with pytest.raises(RequestRefusedError, match="not a CRL") as raised:
            read(content)
        assert "PEM" in raised.value.hint


@pytest.mark.parametrize("ca", SMALL_KEY_TYPES)
def test_a_crl_that_was_changed_or_is_of_another_ca_is_not_believed(ca: KeyType) -> None:
    genuine = crl([revoked(0xC0FFEE)], ca=ca)
    check_crl_signature(genuine, issuer_of(ca))
    changed = genuine.replace(bytes.fromhex("c0ffee"), bytes.fromhex("c0ffef"))
    assert describe_crl(changed).revoked == 1
    with pytest.raises(RequestRefusedError, match="is not signed by"):
        check_crl_signature(changed, issuer_of(ca))
    with pytest.raises(RequestRefusedError, match="is not signed by"):
        check_crl_signature(genuine, issuer_of("ed25519" if ca != "ed25519" else "ec-p256"))


def test_a_crl_that_says_something_else_around_its_signature_is_not_believed() -> None:
    genuine = crl(ca="ec-p256")
    before, ours, after = genuine.rpartition(issuer_of("ec-p256").algorithm.identifier)
    theirs = issuer_of("ec-p384").algorithm.identifier
    assert len(theirs) == len(ours)
    with pytest.raises(RequestRefusedError, match="is not a CRL"):
        check_crl_signature(before + theirs + after, issuer_of("ec-p256"))
    # A bit string whose last bit is 0 may leave it out; no signature of ours does.
    even = next(der for number in range(100) if (der := crl(ca="ed25519", number=number))[-1] % 2 == 0)
    shorter = even[:-65] + b"\1" + even[-64:]
    assert even[-65] == 0
    assert describe_crl(shorter) == describe_crl(even)
    with pytest.raises(RequestRefusedError, match="is not signed by"):
        check_crl_signature(shorter, issuer_of("ed25519"))


def test_a_crl_in_another_name_is_not_believed_though_the_key_is_the_same() -> None:
    renamed = CA_NAME[::-1].encode()
    other = crl(ca="ed25519").replace(CA_NAME.encode(), renamed)
    with pytest.raises(RequestRefusedError, match="issuer is CN=toor teelf tset, not CN=test fleet root"):
        check_crl_signature(other, issuer_of("ed25519"))


@settings(max_examples=examples(500), deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_damaged_crl_is_described_or_refused_and_never_believed(data: st.DataObject) -> None:
    sound = crl([revoked(1, reason=Reason.SUPERSEDED), revoked(2)], ca="ed25519", url=URL)
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for read in (describe_crl, entries_of):
        try:
            read(bytes(damaged))
        except RequestRefusedError as error:
            assert "not a CRL" in error.message  # noqa: PT017 - either is right
    if bytes(damaged) != sound:
        with pytest.raises(RequestRefusedError):
            check_crl_signature(bytes(damaged), issuer_of("ed25519"))


def lint(der: bytes) -> set[str]:
    """Return the codes of all findings that are a warning or worse."""
    document = loader.RFC5280CertificateListDocumentLoader().load_der_document(der, "a CRL")
    return {
        description.finding.code
        for result in LINTER.validate(document.root)
        for description in result.finding_descriptions
        if description.finding.severity <= ValidationFindingSeverity.WARNING
    }


@pytest.mark.parametrize("ca", KEY_TYPES)
def test_the_linter_finds_nothing_in_a_crl(ca: KeyType) -> None:
    listed = [revoked(1 << 150 | serial, reason=reason) for serial, reason in enumerate(Reason)]
    late = [revoked(5, "2051-01-01")]
    for der in (crl(ca=ca), crl(listed, ca=ca), crl(listed, ca=ca, url=URL), crl(late, ca=ca)):
        assert lint(der) == set()
    assert lint(crl(ca=ca, only_authorities=True)) == set()
    assert lint(crl(ca=ca, number=2**159 - 1, made=at("2050-01-01"))) == set()


def test_the_linter_would_find_an_empty_list() -> None:
    bad = asn1_crl.CertificateList.load(crl())
    bad["tbs_cert_list"]["revoked_certificates"] = []
    assert lint(bad.dump(force=True)) == {"pkix.crl_revoked_certificates_empty"}
