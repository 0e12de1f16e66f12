"""RSA, which signs with PKCS#1 v1.5 or with PSS (RFC 4055, sections 5 and 3.1).

Keys are checked for what broken generators leave behind, as public CAs do: small factors, primes too close
together (Fermat), and the ROCA fingerprint of CVE-2017-15361, which secure elements in devices really had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal

from asn1crypto.algos import RSASSAPSSParams, SignedDigestAlgorithm
from asn1crypto.core import Null
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from otahsm.pki.keytypes.family import (
    KeyFamily,
    SignatureAlgorithm,
    TokenMechanism,
    TokenParameters,
    TokenValues,
    weak_key,
)

Name = Literal["rsa-2048", "rsa-3072", "rsa-4096"]
MechanismName = Literal["CKM_RSA_PKCS", "CKM_SHA256_RSA_PKCS", "CKM_RSA_PKCS_PSS", "CKM_SHA256_RSA_PKCS_PSS"]

_BITS: Final[dict[Name, int]] = {"rsa-2048": 2048, "rsa-3072": 3072, "rsa-4096": 4096}
_NAMES: Final = {bits: name for name, bits in _BITS.items()}
_EXPONENT: Final = 65537
_MAX_EXPONENT_BITS: Final = 256
_FERMAT_ROUNDS: Final = 100

_PKCS1_SHA256: Final = SignatureAlgorithm(
    "rsa",
    "sha256",
    SignedDigestAlgorithm({"algorithm": "sha256_rsa", "parameters": Null()}).dump(),
    (TokenMechanism("CKM_RSA_PKCS", "digest-info"), TokenMechanism("CKM_SHA256_RSA_PKCS", "message")),
)
PSS_SALT_BYTES: Final = 32
_SHA256: Final = {"algorithm": "sha256", "parameters": Null()}
PSS_SHA256: Final = SignatureAlgorithm(
    "rsa-pss",
    "sha256",
    SignedDigestAlgorithm(
        {
            "algorithm": "rsassa_pss",
            "parameters": RSASSAPSSParams(
                {
                    "hash_algorithm": _SHA256,
                    "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": _SHA256},
                    "salt_length": PSS_SALT_BYTES,
                }
            ),
        }
    ).dump(),
    (TokenMechanism("CKM_RSA_PKCS_PSS", "digest"), TokenMechanism("CKM_SHA256_RSA_PKCS_PSS", "message")),
)


def primes_up_to(limit: int) -> list[int]:
    """List the primes up to a limit, by trial division: for limits that are small."""
    return [n for n in range(2, limit + 1) if all(n % d for d in range(2, math.isqrt(n) + 1))]


_SMALL_PRIMES: Final = math.prod(primes_up_to(751))  # NIST SP 800-89, section 5.3.3: no factor below 752
# A ROCA modulus lies, modulo each of the first primes, in the subgroup that 65537 generates
# (Nemec et al., "The Return of Coppersmith's Attack", section 3).
_ROCA: Final = [
    (prime, frozenset(pow(65537, power, prime) for power in range(prime)))
    for prime in primes_up_to(167)
    if prime not in (2, 65537)
]
_SQUARES_MOD_64: Final = frozenset(n * n & 63 for n in range(64))


class Rsa(KeyFamily[Name, rsa.RSAPublicKey, rsa.RSAPrivateKey]):
    """Keys of the sizes above."""

    public_class = rsa.RSAPublicKey
    private_class = rsa.RSAPrivateKey
    token_kind = "RSA"  # noqa: S105 - no password
    algorithms: Mapping[Name, SignatureAlgorithm] = dict.fromkeys(_BITS, _PKCS1_SHA256)

    def type_of(self, key: rsa.RSAPublicKey) -> Name | None:
        """Name the size."""
        return _NAMES.get(key.key_size)

    def describe(self, key: rsa.RSAPublicKey) -> str:
        """Name the size, whichever it is."""
        return f"RSA of {key.key_size} bits"

    def check(self, key: rsa.RSAPublicKey) -> None:
        """Refuse what broken generators make."""
        numbers = key.public_numbers()
        if numbers.e < _EXPONENT or numbers.e % 2 == 0 or numbers.e.bit_length() > _MAX_EXPONENT_BITS:
            raise weak_key(
                "RSA", "its exponent must be odd, at least 65537 and at most 256 bits (NIST SP 800-56B)"
            )
        if math.gcd(numbers.n, _SMALL_PRIMES) != 1:
            raise weak_key("RSA", "its modulus has a small factor")
        if all(numbers.n % prime in residues for prime, residues in _ROCA):
            raise weak_key("RSA", "its modulus carries the ROCA fingerprint (CVE-2017-15361)")
        if _has_close_primes(numbers.n):
            raise weak_key(
                "RSA", "its two primes are so close that Fermat's method finds them (CVE-2022-26320)"
            )

    def verify(
        self, key: rsa.RSAPublicKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes
    ) -> None:
        """Verify a raw signature."""
        key.verify(signature, message, _padding(algorithm), algorithm.hash)

    def generate(self, key_type: Name) -> rsa.RSAPrivateKey:
        """Make a key in software."""
        return rsa.generate_private_key(_EXPONENT, _BITS[key_type])

    def sign(self, key: rsa.RSAPrivateKey, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
        """Sign in software."""
        return key.sign(message, _padding(algorithm), algorithm.hash)

    def token_parameters(self, key_type: Name) -> TokenParameters:
        """Return the size."""
        return TokenParameters(modulus_bits=_BITS[key_type])

    def token_values(self, key: rsa.RSAPrivateKey) -> tuple[TokenValues, TokenValues]:
        """Return all numbers, or the two that are public."""
        numbers = key.private_numbers()
        public = {
            "MODULUS": _octets(numbers.public_numbers.n),
            "PUBLIC_EXPONENT": _octets(numbers.public_numbers.e),
        }
        private = {
            "PRIVATE_EXPONENT": _octets(numbers.d),
            "PRIME_1": _octets(numbers.p),
            "PRIME_2": _octets(numbers.q),
            "EXPONENT_1": _octets(numbers.dmp1),
            "EXPONENT_2": _octets(numbers.dmq1),
            "COEFFICIENT": _octets(numbers.iqmp),
        }
        return {**public, **private}, public

    def from_token(self, value: Callable[[str], bytes]) -> rsa.RSAPublicKey:
        """Read the two public numbers."""
        modulus, exponent = (int.from_bytes(value(name), "big") for name in ("MODULUS", "PUBLIC_EXPONENT"))
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _padding(algorithm: SignatureAlgorithm) -> padding.AsymmetricPadding:
    if algorithm.family == "rsa-pss":
        return padding.PSS(padding.MGF1(hashes.SHA256()), PSS_SALT_BYTES)
    return padding.PKCS1v15()


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


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
