"""The key types that otahsm handles: one module a family, registered here.

A CA signs with exactly one algorithm, given by its key: that leaves nothing to choose and nothing to
mismatch. Only an RSA key has two, PKCS#1 v1.5 and PSS; the configuration says which.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, TypeGuard, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys

from otahsm.pki.keytypes import ecdsa, eddsa, rsa
from otahsm.pki.keytypes.family import KeyFamily, SignatureAlgorithm

KeyType: TypeAlias = Literal[ecdsa.Name, rsa.Name, eddsa.Name]
MechanismName: TypeAlias = Literal[ecdsa.MechanismName, rsa.MechanismName, eddsa.MechanismName]
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa_keys.RSAPublicKey | ed25519.Ed25519PublicKey
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa_keys.RSAPrivateKey | ed25519.Ed25519PrivateKey

_Family: TypeAlias = KeyFamily[Any, Any, Any]

FAMILIES: Final[tuple[_Family, ...]] = (ecdsa.Ecdsa(), rsa.Rsa(), eddsa.Eddsa())
SIGNATURE_ALGORITHMS: Final[dict[KeyType, SignatureAlgorithm]] = {
    name: algorithm for family in FAMILIES for name, algorithm in family.algorithms.items()
}
# Every algorithm that a key may sign with: the one of its type, and PSS.
ALL_ALGORITHMS: Final = (*SIGNATURE_ALGORITHMS.values(), rsa.PSS_SHA256)

_BY_TYPE: Final[dict[KeyType, _Family]] = {name: family for family in FAMILIES for name in family.algorithms}


def is_pss(mechanism: MechanismName | None) -> bool:
    """Return whether a mechanism is one of RSASSA-PSS."""
    return any(mechanism == known.name for known in rsa.PSS_SHA256.mechanisms)


def family_of(key: object) -> _Family | None:
    """Return the family of a public or private `cryptography` key; None: there is none."""
    for family in FAMILIES:
        if isinstance(key, (family.public_class, family.private_class)):
            return family
    return None


def family_of_type(key_type: KeyType) -> _Family:
    """Return the family of a key type."""
    return _BY_TYPE[key_type]


def key_type_of(key: object) -> KeyType | None:
    """Name the type of a `cryptography` public key; None for one that otahsm does not handle."""
    family = family_of(key)
    return family.type_of(key) if family else None


def is_private_key(key: object) -> TypeGuard[PrivateKey]:
    """Return whether it is a private key of one of the families."""
    return any(isinstance(key, family.private_class) for family in FAMILIES)


def describe_key(key: object) -> str:
    """Describe a public key for an error message: "RSA of 1024 bits", "EC on secp256k1"."""
    if family := family_of(key):
        return family.describe(key)
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")


def signature_algorithm(key: PublicKey, *, pss: bool = False) -> SignatureAlgorithm:
    """Return how a key signs.

    Args:
        key: of a type that `key_type_of` names.
        pss: whether an RSA key signs with PSS.
    """
    if pss and isinstance(key, rsa_keys.RSAPublicKey):
        return rsa.PSS_SHA256
    return SIGNATURE_ALGORITHMS[cast(KeyType, key_type_of(key))]


def signature_is_valid(
    key: PublicKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes
) -> bool:
    """Return whether `signature` (DER for ECDSA, raw for RSA and Ed25519) is `key`'s over `message`."""
    try:
        cast(_Family, family_of(key)).verify(key, algorithm, signature, message)
    except InvalidSignature:
        return False
    return True


def generate_key(key_type: KeyType) -> PrivateKey:
    """Make a key in software, from OpenSSL's random numbers."""
    key: PrivateKey = family_of_type(key_type).generate(key_type)
    return key


def sign(key: PrivateKey, message: bytes) -> bytes:
    """Sign with a key in software, as its type does (RSA: PKCS#1 v1.5), in the form that X.509 has."""
    algorithm = signature_algorithm(key.public_key())
    return cast(_Family, family_of(key)).sign(key, algorithm, message)
