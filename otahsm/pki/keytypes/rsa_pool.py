"""Many RSA keys, and which of them are weak because of another one, or because of a small factor."""

from __future__ import annotations

import math
from collections import defaultdict
from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import PublicKeyAlgorithmOID

from otahsm.pki.keytypes.rsa import primes_up_to
from otahsm.pki.keytypes.shared_primes import find_shared_primes
from otahsm.pki.keytypes.spki import KEY_ERRORS

_RSA: Final = (PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5, PublicKeyAlgorithmOID.RSASSA_PSS)
_SMALL: Final = 1 << 16


class Weakness(StrEnum):
    """Why a private key is no secret.

    SHARED_PRIME: another modulus has one of its primes. EVEN_MODULUS, SMALL_FACTOR: a prime factor is 2, or
    below 2^16. OTHER_EXPONENT: another key has the same modulus, so who has one private key has both.
    OTHER_DEVICE: another device has the same modulus. CA_KEY: a CA has it.
    """

    SHARED_PRIME = "shared_prime"
    EVEN_MODULUS = "even_modulus"
    SMALL_FACTOR = "small_factor"
    OTHER_EXPONENT = "other_exponent"
    OTHER_DEVICE = "other_device"
    CA_KEY = "ca_key"


class RsaNumbers(NamedTuple):
    """An RSA public key (RFC 8017, section 3.1)."""

    modulus: int
    exponent: int


def rsa_numbers_of(certificate: x509.Certificate) -> RsaNumbers | None:
    """Return the RSA key of a certificate; None: its key is of another kind.

    Raises:
        ValueError: the key can't be read.
    """
    if certificate.public_key_algorithm_oid not in _RSA:
        return None
    try:
        key = certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)  # noqa: S101 - its algorithm says so
        numbers = key.public_numbers()
    except KEY_ERRORS as error:
        raise ValueError("can't read the RSA key") from error
    return RsaNumbers(numbers.n, numbers.e)


class RsaPool:
    """RSA keys of devices and CAs, to be compared with each other."""

    def __init__(self) -> None:
        self._devices: dict[int, tuple[str, int]] = {}  # the first with a modulus, and its exponent
        self._authorities: dict[int, int] = {}
        self._found: defaultdict[int, set[Weakness]] = defaultdict(set)

    def __len__(self) -> int:
        """Return the number of distinct moduli."""
        return len(self._devices.keys() | self._authorities.keys())

    def add_device(self, numbers: RsaNumbers, device_id: str) -> None:
        """Add a device's key. The same key again, of the same device, is its renewal."""
        first_id, exponent = self._devices.setdefault(numbers.modulus, (device_id, numbers.exponent))
        if first_id != device_id:
            self._found[numbers.modulus].add(Weakness.OTHER_DEVICE)
        if exponent != numbers.exponent:
            self._found[numbers.modulus].add(Weakness.OTHER_EXPONENT)

    def add_authority(self, numbers: RsaNumbers) -> None:
        """Add a CA's key; several CA certificates may have the same."""
        exponent = self._authorities.setdefault(numbers.modulus, numbers.exponent)
        if exponent != numbers.exponent:
            self._found[numbers.modulus].add(Weakness.OTHER_EXPONENT)

    def find_weak(self) -> dict[int, tuple[Weakness, ...]]:
        """Return the weaknesses of each modulus that has any. For 100,000 moduli this takes minutes."""
        for modulus in self._devices.keys() & self._authorities.keys():
            self._found[modulus].add(Weakness.CA_KEY)
            if self._devices[modulus][1] != self._authorities[modulus]:
                self._found[modulus].add(Weakness.OTHER_EXPONENT)
        # Small factors are common, so they would count as shared; what is left may still share a large one.
        by_rest: defaultdict[int, list[int]] = defaultdict(list)
        for modulus in self._devices.keys() | self._authorities.keys():
            rest = _without_small_factors(modulus)
            by_rest[rest].append(modulus)
            if rest != modulus:
                even = modulus % 2 == 0
                self._found[modulus].add(Weakness.EVEN_MODULUS if even else Weakness.SMALL_FACTOR)
        by_rest.pop(1, None)
        shared = find_shared_primes(list(by_rest))
        for rest, moduli in by_rest.items():
            if rest in shared or len(moduli) > 1:
                for modulus in moduli:
                    self._found[modulus].add(Weakness.SHARED_PRIME)
        order = list(Weakness)
        return {modulus: tuple(sorted(found, key=order.index)) for modulus, found in self._found.items()}


def _without_small_factors(modulus: int) -> int:
    """Divide a modulus by each prime factor below 2^16, as often as it has it."""
    while (common := math.gcd(modulus, _small_primes())) > 1:
        modulus //= common
    return modulus


@cache
def _small_primes() -> int:
    return math.prod(primes_up_to(_SMALL))
