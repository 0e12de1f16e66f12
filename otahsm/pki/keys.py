"""Is a public key fit to be certified?

Besides type and size, RSA keys are checked for what broken generators leave behind, as public CAs do:
small factors, primes too close together (Fermat), and the ROCA fingerprint of CVE-2017-15361, which
secure elements in devices really had. Ed25519 keys must not be points of small order: anybody can make
signatures that verify with those, so they prove possession of nothing.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from otahsm.errors import ConfigError, RequestRefusedError
from otahsm.pki.algorithms import PublicKey, describe_key, key_type_of
from otahsm.pki.der import children, contents
from otahsm.pki.parsing import PARSE_ERRORS

_FERMAT_ROUNDS: Final = 100
_MIN_EXPONENT: Final = 65537
_MAX_EXPONENT_BITS: Final = 256


def _primes_up_to(limit: int) -> list[int]:
    return [n for n in range(2, limit + 1) if all(n % d for d in range(2, math.isqrt(n) + 1))]


_SMALL_PRIMES: Final = math.prod(_primes_up_to(751))  # NIST SP 800-89, section 5.3.3: no factor below 752
# A ROCA modulus lies, modulo each of the first primes, in the subgroup that 65537 generates
# (Nemec et al., "The Return of Coppersmith's Attack", section 3).
_ROCA: Final = [
    (prime, frozenset(pow(65537, power, prime) for power in range(prime)))
    for prime in _primes_up_to(167)
    if prime not in (2, 65537)
]
_P25519: Final = 2**255 - 19
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y coordinates of the eight points whose order divides 8.
_SMALL_ORDER: Final = frozenset({0, 1, _P25519 - 1, _ORDER_8, _P25519 - _ORDER_8})


def encode_spki(key: PublicKey) -> bytes:
    """Encode a public key as the one DER SubjectPublicKeyInfo that it has (RFC 5280, section 4.1.2.7)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def load_public_key(spki: bytes) -> PublicKey:
    """Read a SubjectPublicKeyInfo in DER.

    Raises:
        ConfigError: it is none, or of a type that otahsm doesn't sign with.
    """
    try:
        key = load_der_public_key(spki)
    except PARSE_ERRORS as error:
        raise ConfigError(f"a public key can't be read: {error}") from error
    if key_type_of(key) is None:
        raise ConfigError(f"otahsm does not sign with {describe_key(key)}")
    return cast(PublicKey, key)


def is_canonical(spki: bytes, key: PublicKey) -> bool:
    """Tell whether an SPKI is the DER encoding that `encode_spki` gives the key that was read from it."""
    if spki.startswith(_CANONICAL_EC_BEGINNINGS):
        return True  # what follows is two coordinates of fixed length, in range: reading the key found that
    return spki == encode_spki(key)


def subject_key_identifier(spki: bytes) -> bytes:
    """Return the 20 octets of RFC 5280, section 4.2.1.2, method 1: SHA-1 over the key's BIT STRING."""
    _, bits = children(spki)
    return hashlib.sha1(contents(bits)[1:], usedforsecurity=False).digest()  # the first counts unused bits


# An EC key's encoding up to its point: named curve, uncompressed (RFC 5480, section 2).
_CANONICAL_EC_BEGINNINGS: Final = tuple(
    encode_spki(ec.derive_private_key(1, curve).public_key())[: -2 * (curve.key_size // 8)]
    for curve in (ec.SECP256R1(), ec.SECP384R1())
)


def check_key(key: PublicKey) -> None:
    """Check a public key whose type and size are already known to be allowed.

    Raises:
        RequestRefusedError: the key is weak or malformed.
    """
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        _check_ed25519(key)


def _check_ed25519(key: ed25519.Ed25519PublicKey) -> None:
    # The last bit is the sign of x (RFC 8032, section 5.1.2).
    y = int.from_bytes(key.public_bytes_raw(), "little") & (1 << 255) - 1
    if y >= _P25519 or y in _SMALL_ORDER:
        raise _weak("Ed25519", "it is a point of small order, or not in its canonical encoding")


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    numbers = key.public_numbers()
    if numbers.e < _MIN_EXPONENT or numbers.e % 2 == 0 or numbers.e.bit_length() > _MAX_EXPONENT_BITS:
        raise _weak("RSA", "its exponent must be odd, at least 65537 and at most 256 bits (NIST SP 800-56B)")
    if math.gcd(numbers.n, _SMALL_PRIMES) != 1:
        raise _weak("RSA", "its modulus has a small factor")
    if all(numbers.n % prime in residues for prime, residues in _ROCA):
        raise _weak("RSA", "its modulus carries the ROCA fingerprint (CVE-2017-15361)")
    if _has_close_primes(numbers.n):
        raise _weak("RSA", "its two primes are so close that Fermat's method finds them (CVE-2022-26320)")


def _has_close_primes(modulus: int) -> bool:
    a = math.isqrt(modulus - 1) + 1  # rounded up: a square has the closest primes of all
    rest = a * a - modulus
    for _ in range(_FERMAT_ROUNDS):
        # Squares end in one of 12 six-bit patterns; only then is the root worth taking.
        if rest & 63 in _SQUARES_MOD_64 and math.isqrt(rest) ** 2 == rest:
            return True
        rest += 2 * a + 1
        a += 1
    return False


_SQUARES_MOD_64: Final = frozenset(n * n & 63 for n in range(64))


def _weak(kind: str, why: str) -> RequestRefusedError:
    return RequestRefusedError(
        "csr.public_key",
        f"the {kind} key is not fit: {why}",
        hint="Make a new key on the device with a current library; if it came from a secure element, that"
        " element's firmware is at fault.",
    )
