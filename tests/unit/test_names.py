"""Device ids become subjects, folder names and log fields: what is never let through."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.errors import RequestRefusedError
from otahsm.patterns import compile_pattern
from otahsm.pki.der import PRINTABLE_STRING
from otahsm.pki.names import check_device_id, device_id_of, subject_of
from otahsm.pki.profile import DEFAULT_DEVICE_ID, Profile

from support.attacks.forging import ORGANIZATION, attribute, subject
from support.examples import examples

DEFAULT = Profile().device_id


@pytest.mark.parametrize("length", [1, 2, 127, 128])
def test_a_device_id_has_1_to_128_characters(length: int) -> None:
    check_device_id("d" * length, DEFAULT)
    check_device_id("d" * length)


@pytest.mark.parametrize(
    "device_id",
    [
        "",
        "d" * 129,
        ".",
        "..",
        ".a",
        "a..",
        "..a",
        "a/b",
        "/",
        "a\\b",
        "a b",
        "a\tb",
        "a\n",
        "\0",
        "\x7f",
        "é",
    ],
)
def test_no_pattern_lets_an_unsafe_device_id_through(device_id: str) -> None:
    with pytest.raises(RequestRefusedError) as raised:
        check_device_id(device_id)
    ((field, _),) = raised.value.violations
    assert field == "device_id"
    assert raised.value.message.isprintable()


@settings(max_examples=examples(500), deadline=None)
@given(st.text(max_size=140))
def test_what_is_let_through_is_one_safe_path_part(device_id: str) -> None:
    try:
        check_device_id(device_id)
    except RequestRefusedError as error:
        assert error.message.isascii()  # noqa: PT017 - either outcome is right, but not for the same ids
        assert not re.fullmatch(DEFAULT_DEVICE_ID, device_id) or ".." in device_id
        return
    assert 1 <= len(device_id) <= 128
    assert device_id.isascii()
    assert device_id.isprintable()
    assert not set(device_id) & set("/\\ ")
    assert not device_id.startswith(".")
    assert ".." not in device_id


@settings(max_examples=examples(200), deadline=None)
@given(st.from_regex(DEFAULT_DEVICE_ID, fullmatch=True))
def test_the_default_pattern_allows_nothing_unsafe_but_two_dots(device_id: str) -> None:
    if ".." not in device_id:
        check_device_id(device_id, DEFAULT)


@pytest.mark.parametrize("device_id", ["prefix-1-suffix", "prefix", "1", "prefix-1\n"])
def test_a_pattern_is_matched_as_a_whole(device_id: str) -> None:
    check_device_id("prefix-1", compile_pattern("prefix-[0-9]"))
    with pytest.raises(RequestRefusedError):
        check_device_id(device_id, compile_pattern("prefix-[0-9]"))
    with pytest.raises(RequestRefusedError):
        check_device_id("prefix-12", compile_pattern("prefix-1|prefix-1x"))


def test_a_long_device_id_is_not_repeated_in_full() -> None:
    with pytest.raises(RequestRefusedError) as raised:
        check_device_id("\n" * 1_000_000, DEFAULT)
    assert len(raised.value.message) < 1000


# cryptography warns of a common name above RFC 5280's 64 characters.
@pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")
@settings(max_examples=examples(200), deadline=None)
@given(st.from_regex(DEFAULT_DEVICE_ID, fullmatch=True))
def test_a_subject_is_what_cryptography_would_encode_and_is_read_back(device_id: str) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, device_id)])
    assert subject_of(device_id) == name.public_bytes()
    assert device_id_of(subject_of(device_id), ignore_others=False) == device_id


def test_the_gateways_expression_finds_the_device_id_in_a_subject() -> None:
    subject = subject_of("device-1")
    encoded = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device-1")])
    assert encoded.public_bytes() == subject
    found = re.search("CN=(.*)$", encoded.rfc4514_string())
    assert found
    assert found[1] == "device-1"


def test_a_printable_string_is_read_as_well() -> None:
    assert device_id_of(subject_of("device-1", PRINTABLE_STRING), ignore_others=False) == "device-1"


def test_other_attributes_are_named_when_they_are_refused() -> None:
    encoded = subject(attribute(b"fleet", kind=ORGANIZATION), attribute(b"device-1"))
    assert device_id_of(encoded, ignore_others=True) == "device-1"
    with pytest.raises(RequestRefusedError, match="organization_name") as raised:
        device_id_of(encoded, ignore_others=False)
    assert "csr_extras" in raised.value.hint
