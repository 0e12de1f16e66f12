"""Public keys: what is fit to be certified, and the one way in which each is encoded."""

from __future__ import annotations

from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from otahsm.errors import RequestRefusedError
from otahsm.pki.der import tlv
from otahsm.pki.keytypes import (
    ALL_ALGORITHMS,
    FAMILIES,
    SIGNATURE_ALGORITHMS,
    KeyType,
    MechanismName,
    PublicKey,
    describe_key,
    family_of,
    key_type_of,
)
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.keytypes.spki import subject_key_identifier

from support.attacks.forging import (
    RsaKey,
    key_of,
    rsa_with_close_primes,
    rsa_with_equal_primes,
    rsa_with_exponent,
    rsa_with_roca,
    rsa_with_small_factor,
)
from support.authority import KEY_TYPES

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P  # of RFC 8032, section 5.1
Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    """Add two points of the curve of Ed25519 (RFC 8032, section 5.1.4, in affine form)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def root(square: int) -> int:
    candidate = pow(square, (P + 3) // 8, P)
    if candidate * candidate % P != square % P:
        candidate = candidate * pow(2, (P - 1) // 4, P) % P
    assert candidate * candidate % P == square % P
    return candidate


def small_order_points() -> list[Point]:
    """Find the eight multiples of a point of order 8: 2x²y² such that doubling it gives y = 0."""
    # A point of order 8 has y² = -x², which makes the curve's equation d*y⁴ + 2*y² - 1 = 0.
    half = root(1 + D)
    square = (half - 1) * pow(D, -1, P) % P
    if pow(square, (P - 1) // 2, P) != 1:
        square = (-half - 1) * pow(D, -1, P) % P
    y = root(square)
    point = (root(-y * y), y)
    points = [point]
    while len(points) < 8:
        points.append(add(points[-1], point))
    assert points[-1] == (0, 1)
    return points


def ed25519_key(y: int, sign: int = 0) -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PublicKey.from_public_bytes((y | sign << 255).to_bytes(32, "little"))


def check_key(key: PublicKey) -> None:
    family = family_of(key)
    assert family is not None
    family.check(key)


def check_numbers(key: RsaKey) -> None:
    check_key(rsa.RSAPublicNumbers(key.exponent, key.modulus).public_key())


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_sound_key_is_fit_named_and_encoded_in_its_one_way(key_type: KeyType) -> None:
    key = key_of(key_type).public_key()
    check_key(key)
    assert key_type_of(key) == key_type
    assert load_der_public_key(encode_spki(key)) == key
    identifier = subject_key_identifier(encode_spki(key))
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(key).digest


def test_every_key_type_is_registered_once() -> None:
    names = [name for family in FAMILIES for name in family.algorithms]
    assert names == list(get_args(KeyType)) == list(SIGNATURE_ALGORITHMS)


def test_every_mechanism_may_be_configured() -> None:
    known = {way.name for algorithm in ALL_ALGORITHMS for way in algorithm.mechanisms}
    assert known == set(get_args(MechanismName))


def test_no_sound_key_is_taken_for_a_weak_one() -> None:
    for _ in range(10):
        check_key(rsa.generate_private_key(65537, 2048).public_key())
    for _ in range(1000):
        check_key(ed25519.Ed25519PrivateKey.generate().public_key())


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", sorted({y for _, y in small_order_points()}), ids=hex)
def test_every_ed25519_point_of_small_order_is_refused(y: int, sign: int) -> None:
    with pytest.raises(RequestRefusedError, match="small order"):
        check_key(ed25519_key(y, sign))


@pytest.mark.parametrize("excess", range(19))
def test_an_ed25519_key_that_is_not_reduced_is_refused(excess: int) -> None:
    with pytest.raises(RequestRefusedError, match="canonical"):
        check_key(ed25519_key(P + excess))


@pytest.mark.parametrize("exponent", [65537, 65539, 2**255 + 95])
def test_an_odd_exponent_of_65537_or_more_is_fit(exponent: int) -> None:
    check_numbers(RsaKey(rsa_with_exponent(65537).modulus, exponent, 0))


@pytest.mark.parametrize("exponent", [3, 17, 257, 65535, 2**256 + 1])
def test_a_small_or_a_huge_exponent_is_not(exponent: int) -> None:
    with pytest.raises(RequestRefusedError, match="exponent"):
        check_numbers(RsaKey(rsa_with_exponent(65537).modulus, exponent, 0))


@pytest.mark.parametrize("factor", [3, 5, 743, 751])
def test_a_small_factor_is_found(factor: int) -> None:
    with pytest.raises(RequestRefusedError, match="small factor"):
        check_numbers(rsa_with_small_factor(factor))


def test_a_factor_above_751_is_not_looked_for() -> None:
    check_numbers(rsa_with_small_factor(757))


def test_close_primes_and_a_square_are_found() -> None:
    for key in (rsa_with_close_primes(), rsa_with_equal_primes()):
        with pytest.raises(RequestRefusedError, match="Fermat"):
            check_numbers(key)


def test_the_roca_fingerprint_is_found() -> None:
    with pytest.raises(RequestRefusedError, match="ROCA") as raised:
        check_numbers(rsa_with_roca())
    assert "firmware" in raised.value.hint


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (ec.generate_private_key(ec.SECP521R1()).public_key(), "EC on secp521r1"),
        (rsa.generate_private_key(65537, 2056).public_key(), "RSA of 2056 bits"),
    ],
)
def test_a_key_of_another_type_has_no_name_but_words(
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, words: str
) -> None:
    assert key_type_of(key) is None
    assert describe_key(key) == words


@given(st.integers(0, 255), st.integers(0, 70_000))
def test_a_der_value_has_the_shortest_length_there_is(tag: int, length: int) -> None:
    encoded = tlv(tag, bytes(length // 2), bytes(length - length // 2))
    assert encoded[0] == tag
    octets = encoded[1 : len(encoded) - length]
    if length < 128:
        assert octets == bytes((length,))
    else:
        assert octets == bytes((0x80 + len(octets) - 1,)) + octets[1:]
        assert octets[1] != 0
        assert int.from_bytes(octets[1:], "big") == length
