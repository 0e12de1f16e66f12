"""CSRs are hostile until shown otherwise: what is refused, what is accepted, and nothing else happens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import get_args

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.errors import RequestRefusedError
from otahsm.line import make_csr
from otahsm.pki.certificate import Binding
from otahsm.pki.csr import MAX_CSR_BYTES, check_csr
from otahsm.pki.der import PRINTABLE_STRING
from otahsm.pki.keytypes import KeyType
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile

from support.attacks.forging import (
    MS_EXTENSION_REQUEST,
    ORGANIZATION,
    attribute,
    extension,
    forge,
    key_of,
    named,
    p256,
    rsa_with_exponent,
    subject,
    wish,
)
from support.attacks.hostile import (
    ALT_NAME,
    CA_FALSE,
    CA_TRUE,
    CLIENT_AUTH,
    HOSTILE,
    KEY_USAGE,
    NAME,
    UNKNOWN,
    of_size,
)
from support.examples import examples

PROFILE = Profile()
LENIENT = Profile(csr_extras="ignore")
KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)


def refusal(csr: bytes, profile: Profile = PROFILE, expected: str = "") -> RequestRefusedError:
    with pytest.raises(RequestRefusedError) as raised:
        check_csr(csr, profile, expected)
    return raised.value


def field(error: RequestRefusedError) -> str:
    ((name, description),) = error.violations
    assert description == error.message
    return name


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_csr_is_refused_and_the_field_is_named(name: str) -> None:
    error = refusal(HOSTILE[name].build())
    assert field(error) == HOSTILE[name].field, error.message
    assert error.hint
    # What is shown of a hostile CSR can't break a log line.
    assert error.message.isprintable()
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name.startswith(("bytes:", "signature:", "key:"))]
)
def test_a_lenient_profile_refuses_what_is_not_a_mere_wish(name: str) -> None:
    assert field(refusal(HOSTILE[name].build(), LENIENT)) == HOSTILE[name].field


def test_a_csr_that_is_cut_off_anywhere_is_refused() -> None:
    csr = forge(named(NAME), wish(KEY_USAGE))
    assert check_csr(csr, PROFILE).device_id == NAME
    for length in range(len(csr)):
        assert field(refusal(csr[:length])) == "csr", length


def test_any_flipped_bit_of_the_signature_is_found() -> None:
    csr = forge(named(NAME))
    for position in range(len(csr) - 64, len(csr)):
        for bit in range(8):
            changed = bytearray(csr)
            changed[position] ^= 1 << bit
            assert field(refusal(bytes(changed))) in ("csr", "csr.signature")


def test_pem_is_answered_with_a_hint_to_send_der() -> None:
    assert "DER" in refusal(HOSTILE["bytes: PEM"].build()).hint
    assert "PEM" not in refusal(HOSTILE["bytes: text"].build()).hint


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("RSA with the ROCA fingerprint", "ROCA"),
        ("RSA with close primes", "Fermat"),
        ("RSA with one prime twice", "Fermat"),
        ("RSA with the factor 3", "small factor"),
        ("RSA with the factor 751", "small factor"),
        ("RSA exponent 3", "exponent"),
        ("EC on secp256k1", "secp256k1"),
        ("RSA of 1024 bits", "1024"),
        ("RSA without NULL parameters", "canonical"),
        ("a compressed point", "canonical"),
        ("Ed25519's neutral point", "small order"),
    ],
)
def test_a_refused_key_is_told_why(name: str, word: str) -> None:
    assert word in refusal(HOSTILE[f"key: {name}"].build()).message


@pytest.mark.parametrize(
    "name",
    ["RSA exponent 3", "RSA with close primes", "RSA with the factor 3", "RSA with the ROCA fingerprint"],
)
def test_a_broken_rsa_key_is_refused_though_its_signature_is_good(name: str) -> None:
    assert x509.load_der_x509_csr(HOSTILE[f"key: {name}"].build()).is_signature_valid


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_every_allowed_key_type_is_accepted(key_type: KeyType) -> None:
    key = key_of(key_type)
    assert check_csr(make_csr("device-1", key), PROFILE) == Binding("device-1", encode_spki(key.public_key()))


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_key_type_that_the_profile_lacks_is_refused(key_type: KeyType) -> None:
    others = Profile(key_types=frozenset(KEY_TYPES) - {key_type})
    assert field(refusal(make_csr("device-1", key_of(key_type)), others)) == "csr.public_key"


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "a UTF8String": lambda: forge(named(NAME)),
    "a PrintableString": lambda: forge(named(NAME, PRINTABLE_STRING)),
    "the profile's keyUsage": lambda: forge(named(NAME), wish(KEY_USAGE)),
    "the profile's extKeyUsage": lambda: forge(named(NAME), wish(CLIENT_AUTH)),
    "CA:FALSE": lambda: forge(named(NAME), wish(CA_FALSE)),
    "all of these": lambda: forge(named(NAME), wish(CA_FALSE, KEY_USAGE, CLIENT_AUTH)),
    "Microsoft's way to ask": lambda: forge(named(NAME), wish(KEY_USAGE, kind=MS_EXTENSION_REQUEST)),
    "exactly 16 KiB": lambda: of_size(MAX_CSR_BYTES),
    "an RSA key of our own making": lambda: rsa_with_exponent(65537).csr(NAME),
    "a large odd exponent": lambda: rsa_with_exponent(2**255 + 95).csr(NAME),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_unusual_but_good_csr_is_accepted(name: str) -> None:
    assert check_csr(ACCEPTED[name](), PROFILE).device_id == NAME


def test_the_keys_own_identifier_may_be_asked_for_and_no_other() -> None:
    own = x509.SubjectKeyIdentifier.from_public_key(p256().public_key()).public_bytes()
    assert check_csr(forge(named(NAME), wish(extension("2.5.29.14", own))), PROFILE).device_id == NAME
    other = own[:-1] + bytes((own[-1] ^ 1,))
    assert field(refusal(forge(named(NAME), wish(extension("2.5.29.14", other))))) == "csr.extensions"


@pytest.mark.parametrize(
    "csr",
    [
        forge(subject(attribute(b"fleet", kind=ORGANIZATION), attribute(NAME.encode()))),
        forge(subject(attribute(b"fleet", kind=ORGANIZATION) + attribute(NAME.encode()))),
        forge(named(NAME), wish(CA_TRUE)),
        forge(named(NAME), wish(KEY_USAGE), wish(CA_TRUE)),
        forge(named(NAME), wish(ALT_NAME, UNKNOWN)),
    ],
    ids=["organization", "organization in the RDN", "CA:TRUE", "CA:TRUE hidden", "SAN and unknown"],
)
def test_a_lenient_profile_takes_id_and_key_and_leaves_the_rest(csr: bytes) -> None:
    assert check_csr(csr, LENIENT) == Binding(NAME, encode_spki(p256().public_key()))


def test_the_device_id_must_be_the_one_that_the_client_named() -> None:
    csr = forge(named(NAME))
    assert check_csr(csr, PROFILE, NAME).device_id == NAME
    assert field(refusal(csr, expected="another")) == "device_id"
    assert field(refusal(csr, expected=NAME.upper())) == "device_id"
    assert len(refusal(csr, expected="x" * 100_000).message) < 1000


@cache
def valid_csrs() -> tuple[bytes, ...]:
    return (
        forge(named(NAME)),
        forge(named(NAME), wish(CA_FALSE, KEY_USAGE, CLIENT_AUTH)),
        make_csr(NAME, key_of("ed25519")),
        make_csr(NAME, key_of("rsa-2048")),
    )


def accepts(csr: bytes, profile: Profile) -> bool:
    """Check a CSR; anything that escapes other than a refusal fails the test."""
    try:
        check_csr(csr, profile)
    except RequestRefusedError:
        return False
    return True


@settings(max_examples=examples(500), deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_and_do_nothing_else(csr: bytes) -> None:
    assert not accepts(csr, PROFILE)


@settings(max_examples=examples(3000), deadline=None)
@given(st.data())
def test_a_mutated_csr_is_accepted_only_if_its_signature_is_valid(data: st.DataObject) -> None:
    csr = bytearray(data.draw(st.sampled_from(valid_csrs())))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(csr) - 1))
        match data.draw(st.sampled_from(("change", "insert", "delete", "swap"))):
            case "change":
                csr[position] = data.draw(st.integers(0, 255))
            case "insert":
                csr[position:position] = data.draw(st.binary(min_size=1, max_size=4))
            case "delete":
                del csr[position : position + data.draw(st.integers(1, 4))]
            case _:
                csr[position:] = csr[position + 1 :] + csr[position : position + 1]
    if accepts(bytes(csr), data.draw(st.sampled_from((PROFILE, LENIENT)))):
        assert x509.load_der_x509_csr(bytes(csr)).is_signature_valid


_names = st.lists(
    st.lists(
        st.builds(
            attribute,
            st.binary(max_size=8),
            st.integers(1, 0x3F).filter(lambda tag: tag & 0x1F != 0x1F),
            st.sampled_from(("2.5.4.3", "2.5.4.3", "2.5.4.10", "2.5.4.6", "2.5.4.45", "1.2.3")),
        ),
        max_size=2,
    ).map(lambda attributes: b"".join(sorted(attributes))),
    max_size=3,
).map(lambda rdns: subject(*rdns))
_attributes = st.lists(
    st.builds(
        extension,
        st.sampled_from(
            [f"2.5.29.{n}" for n in range(60)] + ["1.3.6.1.5.5.7.1.1", "1.3.6.1.4.1.11129.2.4.2"]
        ),
        st.binary(max_size=12),
        critical=st.sampled_from((None, True)),
    ),
    min_size=1,
    max_size=3,
).map(lambda extensions: wish(*extensions))


@settings(max_examples=examples(1000), deadline=None)
@given(_names, st.lists(_attributes, max_size=2), st.sampled_from((PROFILE, LENIENT)))
def test_a_signed_csr_with_any_subject_and_wishes_is_accepted_or_refused_and_nothing_else(
    name: bytes, attributes: list[bytes], profile: Profile
) -> None:
    accepts(forge(name, *attributes), profile)
