"""Makes CSRs that no library would make: raw DER around real keys, and RSA keys broken on purpose."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from asn1crypto.core import Integer, ObjectIdentifier
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from otahsm.pki.der import BIT_STRING, SEQUENCE, SET, UTF8_STRING, tlv
from otahsm.pki.keytypes import SIGNATURE_ALGORITHMS, KeyType, PrivateKey, generate_key
from otahsm.pki.keytypes.family import encode_spki

BOOLEAN, OCTET_STRING, ATTRIBUTES = 0x01, 0x04, 0xA0
TELETEX_STRING, IA5_STRING, BMP_STRING = 0x14, 0x16, 0x1E
COMMON_NAME, ORGANIZATION = "2.5.4.3", "2.5.4.10"
EXTENSION_REQUEST, MS_EXTENSION_REQUEST = "1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14"
RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")
RSA_WITHOUT_NULL = bytes.fromhex("300b06092a864886f70d010101")
EC_SHA256 = SIGNATURE_ALGORITHMS["ec-p256"].identifier
RSA_SHA256 = SIGNATURE_ALGORITHMS["rsa-2048"].identifier
_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


@cache
def key_of(key_type: KeyType) -> PrivateKey:
    """Make one key of each type, once."""
    return generate_key(key_type)


@cache
def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def oid(dotted: str) -> bytes:
    encoded: bytes = ObjectIdentifier(dotted).dump()
    return encoded


def integer(value: int) -> bytes:
    encoded: bytes = Integer(value).dump()
    return encoded


def attribute(value: bytes, string_type: int = UTF8_STRING, kind: str = COMMON_NAME) -> bytes:
    """One attribute of a name."""
    return tlv(SEQUENCE, oid(kind), tlv(string_type, value))


def subject(*rdns: bytes) -> bytes:
    """A Name; each RDN is one attribute, or several joined."""
    return tlv(SEQUENCE, *(tlv(SET, rdn) for rdn in rdns))


def named(common_name: str | bytes, string_type: int = UTF8_STRING) -> bytes:
    value = common_name.encode() if isinstance(common_name, str) else common_name
    return subject(attribute(value, string_type))


def extension(kind: str, value: bytes, *, critical: bool | None = None) -> bytes:
    """An extension; `critical=False` writes the DEFAULT, which DER forbids."""
    flag = b"" if critical is None else tlv(BOOLEAN, b"\xff" if critical else b"\0")
    return tlv(SEQUENCE, oid(kind), flag, tlv(OCTET_STRING, value))


def wish(*extensions: bytes, kind: str = EXTENSION_REQUEST) -> bytes:
    """An attribute that asks for extensions."""
    return tlv(SEQUENCE, oid(kind), tlv(SET, tlv(SEQUENCE, *extensions)))


def spki_of(algorithm: bytes, key: bytes) -> bytes:
    return tlv(SEQUENCE, algorithm, tlv(BIT_STRING, b"\0", key))


def request_info(name: bytes, spki: bytes, *attributes: bytes, version: int = 0) -> bytes:
    return tlv(SEQUENCE, integer(version), name, spki, tlv(ATTRIBUTES, *attributes))


def signed(info: bytes, algorithm: bytes, signature: bytes) -> bytes:
    return tlv(SEQUENCE, info, algorithm, tlv(BIT_STRING, b"\0", signature))


def forge(
    name: bytes,
    *attributes: bytes,
    key: ec.EllipticCurvePrivateKey | None = None,
    spki: bytes | None = None,
    version: int = 0,
) -> bytes:
    """Make a CSR whose signature is good for its EC key, however odd the rest is."""
    key = key or p256()
    info = request_info(name, spki or encode_spki(key.public_key()), *attributes, version=version)
    return signed(info, EC_SHA256, key.sign(info, ec.ECDSA(SHA256())))


@dataclass(frozen=True)
class RsaKey:
    """An RSA key of chosen numbers, with which no library would sign."""

    modulus: int
    exponent: int
    private_exponent: int

    def spki(self, algorithm: bytes = RSA_ENCRYPTION) -> bytes:
        return spki_of(algorithm, tlv(SEQUENCE, integer(self.modulus), integer(self.exponent)))

    def csr(self, common_name: str, algorithm: bytes = RSA_ENCRYPTION) -> bytes:
        """Make a CSR, signed as RFC 8017, section 8.2.1 says."""
        info = request_info(named(common_name), self.spki(algorithm))
        size = (self.modulus.bit_length() + 7) // 8
        digest = _SHA256_DIGEST_INFO + hashlib.sha256(info).digest()
        padded = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest
        signature = pow(int.from_bytes(padded, "big"), self.private_exponent, self.modulus)
        return signed(info, RSA_SHA256, signature.to_bytes(size, "big"))


def rsa_key(*primes: int, exponent: int = 65537) -> RsaKey:
    """Make a key of given primes; an exponent without an inverse gets no working private one."""
    order = math.lcm(*(prime - 1 for prime in primes))
    if len(set(primes)) < len(primes):
        order *= primes[0]
    inverse = pow(exponent, -1, order) if math.gcd(exponent, order) == 1 else 1
    return RsaKey(math.prod(primes), exponent, inverse)


def primes_of(bits: int, exponent: int = 65537) -> tuple[int, int]:
    """Take the two primes of a sound key, for which `exponent` has an inverse."""
    while True:
        numbers = rsa.generate_private_key(65537, bits).private_numbers()
        if exponent % 2 == 0 or math.gcd(exponent, (numbers.p - 1) * (numbers.q - 1)) == 1:
            return numbers.p, numbers.q


@cache
def rsa_with_exponent(exponent: int) -> RsaKey:
    return rsa_key(*primes_of(2048, exponent), exponent=exponent)


@cache
def rsa_with_small_factor(factor: int) -> RsaKey:
    """Make a key with a third, tiny prime, of 2048 bits in all."""
    while True:
        key = rsa_key(factor, *primes_of(2048 - factor.bit_length()))
        if key.modulus.bit_length() == 2048:
            return key


@cache
def rsa_with_equal_primes() -> RsaKey:
    prime = primes_of(2048)[0]
    return rsa_key(prime, prime)


@cache
def rsa_with_close_primes() -> RsaKey:
    """Make a key whose second prime is the one after the first (CVE-2022-26320)."""
    start = primes_of(2048)[0] | 1
    return rsa_key(start, first_prime(start + step for step in itertools.count(2, 2)))


@cache
def rsa_with_roca() -> RsaKey:
    """Make a key as the Infineon library did: p = k * M + (65537^a mod M) (CVE-2017-15361)."""
    modulus = math.prod(itertools.islice(_primes(), 126))  # of the library's 1024-bit primes
    randomness = random.Random(2017)  # noqa: S311 - the same weak key in every run

    def candidates() -> Iterator[int]:
        # The two highest bits are set, so that two primes make 2048 bits.
        lowest, highest = (3 << 1022) // modulus + 1, (1 << 1024) // modulus - 1
        while True:
            power = pow(65537, randomness.randrange(modulus), modulus)
            yield randomness.randint(lowest, highest) * modulus + power

    return rsa_key(first_prime(candidates()), first_prime(candidates()))


def first_prime(candidates: Iterator[int]) -> int:
    small = math.prod(itertools.islice(_primes(), 500))
    return next(n for n in candidates if math.gcd(n, small) == 1 and pow(2, n - 1, n) == 1)


def _primes() -> Iterator[int]:
    return (n for n in itertools.count(2) if all(n % d for d in range(2, math.isqrt(n) + 1)))
