"""What follows the common name: what a profile says, and of a request only what the profile asks for."""

from __future__ import annotations

import re
import unicodedata

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from otahsm.config import ProfileConfig
from otahsm.errors import RequestRefusedError
from otahsm.pki.names import subject_of
from otahsm.pki.subject import SubjectTemplate


def template(*parts: str) -> SubjectTemplate:
    return SubjectTemplate(ProfileConfig(subject=parts).build().subject)


def read(others: bytes) -> list[tuple[str, str]]:
    """Read a subject with another implementation: kinds and values, in the order of the DER."""
    name = asn1_x509.Name.load(subject_of("dev-1", others=others), strict=True)
    return [(attribute["type"].native, attribute["value"].native) for rdn in name.chosen for attribute in rdn]


def test_every_kind_is_written_after_the_common_name_in_the_profiles_order() -> None:
    parts = (
        "C=DE",
        "ST=BW",
        "L=Ulm",
        "O=Acme",
        "OU={plant}",
        "serialNumber={serial}",
        "businessCategory=production",
        "title=x",
    )
    subject = template(*parts)
    assert subject.names == {"plant", "serial"}
    assert read(subject.fill([("serial", "SN-1"), ("plant", "Wörk 3")])) == [
        ("common_name", "dev-1"),
        ("country_name", "DE"),
        ("state_or_province_name", "BW"),
        ("locality_name", "Ulm"),
        ("organization_name", "Acme"),
        ("organizational_unit_name", "Wörk 3"),
        ("serial_number", "SN-1"),
        ("business_category", "production"),
        ("title", "x"),
    ]


@given(st.lists(st.text(min_size=1, max_size=70), max_size=3))
def test_a_value_is_written_as_it_is_or_refused(values: list[str]) -> None:
    subject = template(*(f"OU={{a{number}}}" for number in range(len(values))))
    said = [(f"a{number}", value) for number, value in enumerate(values)]
    try:
        others = subject.fill(said)
    except RequestRefusedError:
        return
    normal = [unicodedata.normalize("NFC", value) for value in values]
    assert [value for _, value in read(others)[1:]] == normal


@given(st.lists(st.text(st.sampled_from('CN=cn,+/\\"x0 '), min_size=1, max_size=12), max_size=3))
@example(["a,CN=other"])
@example(["x", "cn=other"])
def test_a_gateway_finds_the_device_id_whatever_the_values_are(values: list[str]) -> None:
    parts = [f"OU={{a{number}}}" for number in range(len(values))]
    try:
        others = template(*parts).fill([(f"a{number}", value) for number, value in enumerate(values)])
    except RequestRefusedError:
        return
    shown = rfc4514(subject_of("dev-1", others=others))
    found = re.search("CN=(.*)$", shown)
    assert found is not None
    assert found[1] == "dev-1"


def rfc4514(der: bytes) -> str:
    """Write a subject as nginx does, the last of the DER first; with another implementation."""
    attributes = [
        x509.NameAttribute(x509.ObjectIdentifier(attribute["type"].dotted), attribute["value"].native)
        for rdn in asn1_x509.Name.load(der).chosen
        for attribute in rdn
    ]
    return x509.Name(attributes).rfc4514_string()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "needs the attribute plant"),
        ([("plant", "Ulm"), ("unit", "1")], "does not use the attribute 'unit'; it needs plant"),
        ([("plant", "")], "1 to 64 printable"),
        ([("plant", "   ")], "1 to 64 printable"),
        ([("plant", "x" * 65)], "1 to 64 printable"),
        ([("plant", "a\nb")], "1 to 64 printable"),
        ([("plant", "a\0b")], "1 to 64 printable"),
        ([("plant", "a\u202eb")], "1 to 64 printable"),
        ([("plant", "a\u200bb")], "1 to 64 printable"),
        ([("plant", "a,CN=b")], "take for the device id"),
        ([("plant", "cn=b")], "take for the device id"),
    ],
)
def test_what_is_not_fit_for_a_subject_is_refused_by_name(said: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(RequestRefusedError, match=message) as refused:
        template("O=Acme", "OU={plant}").fill(said)
    assert refused.value.violations[0].field == "attributes"


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("C={a}", "Germany", "two capital letters"),
        ("C={a}", "de", "two capital letters"),
        ("serialNumber={a}", "Nr_1", "PrintableString"),
        ("serialNumber={a}", "ü", "PrintableString"),
        ("O={a}{a}", "x" * 40, "not that short"),
    ],
)
def test_kinds_with_rules_of_their_own_keep_them(part: str, value: str, message: str) -> None:
    with pytest.raises(RequestRefusedError, match=message):
        template(part).fill([("a", value)])


@pytest.mark.parametrize(
    "part", ["CN=x", "O", "O=", "=x", "o=x", "emailAddress=x", "O={", "O={A}", "O={a:06d}", "O={a.b}", ""]
)
def test_a_profile_that_makes_no_sense_is_refused(part: str) -> None:
    with pytest.raises(ValidationError):
        ProfileConfig(subject=(part,))


def test_a_profile_without_a_subject_of_its_own_takes_no_attributes() -> None:
    assert template().fill([]) == b""
    with pytest.raises(RequestRefusedError, match="it needs none"):
        template().fill([("plant", "Ulm")])
