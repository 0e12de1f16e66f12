"""RSA keys compared with each other: the trees find what comparing each with each finds."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from otahsm.pki.der import SEQUENCE, tlv
from otahsm.pki.keytypes import shared_primes
from otahsm.pki.keytypes.rsa_pool import RsaNumbers, RsaPool, Weakness, rsa_numbers_of
from otahsm.pki.keytypes.shared_primes import find_shared_primes

from support.attacks.forging import RsaKey, oid, rsa_key, rsa_with_small_factor
from support.authority import leaf
from support.rsa_keys import certificate_over, primes, private_key

SMALL_PRIMES = [n for n in range(3, 120) if all(n % d for d in range(2, n))]
moduli = st.lists(
    st.lists(st.sampled_from(SMALL_PRIMES), min_size=1, max_size=3).map(math.prod), unique=True, max_size=40
)


def compared_in_pairs(numbers: Sequence[int]) -> set[int]:
    pairs = (pair for pair in itertools.combinations(numbers, 2) if math.gcd(*pair) > 1)
    return set(itertools.chain.from_iterable(pairs))


@given(moduli)
@settings(max_examples=300)
def test_the_trees_find_what_comparing_each_with_each_finds(numbers: list[int]) -> None:
    assert find_shared_primes(numbers) == compared_in_pairs(numbers)


@given(moduli, st.integers(1, 9))
def test_it_does_not_matter_how_many_are_in_a_group(numbers: list[int], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_primes, "_GROUP", size)
        assert find_shared_primes(numbers) == compared_in_pairs(numbers)


def test_two_of_many_thousand_large_numbers_are_found_wherever_they_are() -> None:
    drawn = random.Random(2012)  # noqa: S311 - the same numbers in every run
    a, b, c = ((1 << exponent) - 1 for exponent in (521, 607, 1279))  # Mersenne's, which are prime
    numbers = sieve(70_000, 150_000)
    assert len(numbers) > 4096  # more than one group
    first, last = a * b, b * c
    numbers.insert(drawn.randrange(1000), first)
    numbers.append(last)
    assert find_shared_primes(numbers) == {first, last}


def sieve(start: int, end: int) -> list[int]:
    composite = bytearray(end)
    for n in range(2, math.isqrt(end) + 1):
        composite[n * n :: n] = b"\1" * len(range(n * n, end, n))
    return [n for n in range(start, end) if not composite[n]]


@pytest.mark.parametrize("numbers", [[], [15], [15, 77], [3, 5, 7, 11, 13]], ids=str)
def test_numbers_without_a_common_factor_are_not_found(numbers: list[int]) -> None:
    assert find_shared_primes(numbers) == set()


@pytest.mark.parametrize("numbers", [[15, 21], [15, 5], [15, 21, 35]], ids=str)
def test_a_number_is_found_also_if_all_of_it_is_shared(numbers: list[int]) -> None:
    assert find_shared_primes(numbers) == set(numbers)


def pool_of(*keys: tuple[RsaNumbers, str]) -> RsaPool:
    pool = RsaPool()
    for numbers, device_id in keys:
        pool.add_device(numbers, device_id)
    return pool


def numbers_of(p: int, q: int, exponent: int = 65537) -> RsaNumbers:
    public = private_key(p, q, exponent).public_key().public_numbers()
    return RsaNumbers(public.n, public.e)


def test_real_keys_that_share_a_prime_are_weak_and_their_neighbour_is_not() -> None:
    a, b, c, d, e = primes()
    one, two, sound = numbers_of(a, b), numbers_of(b, c), numbers_of(d, e)
    weak = pool_of((one, "one"), (two, "two"), (sound, "sound")).find_weak()
    assert weak == {one.modulus: (Weakness.SHARED_PRIME,), two.modulus: (Weakness.SHARED_PRIME,)}


def test_the_same_key_again_is_a_renewal_for_its_device_and_weak_for_another() -> None:
    a, b, *_ = primes()
    key = numbers_of(a, b)
    assert pool_of((key, "one"), (key, "one")).find_weak() == {}
    weak = pool_of((key, "one"), (key, "one"), (key, "two")).find_weak()
    assert weak == {key.modulus: (Weakness.OTHER_DEVICE,)}


def test_a_modulus_with_two_exponents_is_weak_even_for_one_device() -> None:
    key = RsaKey(*numbers_of(*primes()[:2]), 1)
    weak = pool_of((RsaNumbers(key.modulus, 65537), "one"), (RsaNumbers(key.modulus, 65539), "one"))
    assert weak.find_weak() == {key.modulus: (Weakness.OTHER_EXPONENT,)}


def test_small_factors_are_weak_and_are_no_shared_primes() -> None:
    a, b, c, d, e = primes()
    moduli = {
        2 * a * b: (Weakness.EVEN_MODULUS,),
        4 * c * d: (Weakness.EVEN_MODULUS,),
        3 * e: (Weakness.SMALL_FACTOR,),
        65521**2: (Weakness.SMALL_FACTOR,),  # the largest prime below 2^16, and nothing else
    }
    pool = pool_of(*((RsaNumbers(n, 65537), str(n)) for n in moduli))
    assert pool.find_weak() == moduli


def test_a_large_prime_is_found_behind_a_small_factor() -> None:
    a, b, c, *_ = primes()
    both = (Weakness.SHARED_PRIME, Weakness.SMALL_FACTOR)
    cases = {a * b: both[:1], 3 * a * c: both}
    assert pool_of(*((RsaNumbers(n, 65537), str(n)) for n in cases)).find_weak() == cases
    cases = {a * b: both[:1], 3 * a * b: both}  # what is left is the whole modulus of the other one
    assert pool_of(*((RsaNumbers(n, 65537), str(n)) for n in cases)).find_weak() == cases


def test_a_ca_is_compared_too() -> None:
    a, b, c, d, _ = primes()
    of_ca, sharing, same = numbers_of(a, b), numbers_of(b, c), numbers_of(c, d)
    pool = pool_of((sharing, "sharing"))
    pool.add_authority(of_ca)
    pool.add_authority(of_ca)  # its renewed certificate
    assert len(pool) == 2
    assert pool.find_weak().keys() == {of_ca.modulus, sharing.modulus}
    pool = pool_of((same, "same"))
    pool.add_authority(RsaNumbers(same.modulus, 65539))
    assert pool.find_weak() == {same.modulus: (Weakness.OTHER_EXPONENT, Weakness.CA_KEY)}
    pool = RsaPool()
    pool.add_authority(same)
    pool.add_authority(RsaNumbers(same.modulus, 65539))
    assert pool.find_weak() == {same.modulus: (Weakness.OTHER_EXPONENT,)}


def test_the_numbers_of_a_certificate_are_those_of_its_rsa_key() -> None:
    key = rsa_with_small_factor(3)
    for spki in (key.spki(), key.spki(tlv(SEQUENCE, oid("1.2.840.113549.1.1.10")))):
        certificate = x509.load_der_x509_certificate(certificate_over(spki, "device"))
        assert rsa_numbers_of(certificate) == (key.modulus, key.exponent)
    assert rsa_numbers_of(x509.load_der_x509_certificate(leaf("device", "ec-p256"))) is None


@pytest.mark.parametrize("key", [RsaKey(0, 3, 1), RsaKey(1, 1, 1), RsaKey(15, 2, 1)], ids=str)
def test_what_is_no_rsa_key_can_not_be_read(key: RsaKey) -> None:
    certificate = x509.load_der_x509_certificate(certificate_over(key.spki(), "device"))
    with pytest.raises(ValueError, match="can't read the RSA key"):
        rsa_numbers_of(certificate)


def test_an_even_modulus_is_read_as_it_is() -> None:
    key = rsa_key(2, 2, *primes()[:2])
    certificate = x509.load_der_x509_certificate(certificate_over(key.spki(), "device"))
    assert rsa_numbers_of(certificate) == (key.modulus, key.exponent)
