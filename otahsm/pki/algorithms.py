"""Key types and the signature algorithm that each one signs with.

A CA signs with exactly one algorithm, given by its key: that leaves nothing to choose and nothing to
mismatch. Only an RSA key has two, PKCS#1 v1.5 and PSS; the configuration says which. Identifiers are DER
AlgorithmIdentifiers: RFC 5758 section 3.2 (ECDSA), RFC 4055 section 5 (RSA PKCS#1 v1.5, with NULL parameters)
and section 3.1 (PSS with SHA-256, MGF1 with SHA-256 and a salt of 32 octets), RFC 8410 section 3 (Ed25519).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from asn1crypto.algos import RSASSAPSSParams, SignedDigestAlgorithm
from asn1crypto.core import Null
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

KeyType: TypeAlias = Literal["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"]
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """How a key signs: the family, the digest made outside the token, and the DER identifier."""

    family: Literal["ecdsa", "rsa", "rsa-pss", "eddsa"]
    digest: Literal["sha256", "sha384"] | None
    identifier: bytes


_ECDSA_SHA256: Final = SignatureAlgorithm(
    "ecdsa", "sha256", SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}).dump()
)
_ECDSA_SHA384: Final = SignatureAlgorithm(
    "ecdsa", "sha384", SignedDigestAlgorithm({"algorithm": "sha384_ecdsa"}).dump()
)
_RSA_SHA256: Final = SignatureAlgorithm(
    "rsa", "sha256", SignedDigestAlgorithm({"algorithm": "sha256_rsa", "parameters": Null()}).dump()
)
PSS_SALT_BYTES: Final = 32
_SHA256: Final = {"algorithm": "sha256", "parameters": Null()}
RSA_PSS_SHA256: Final = SignatureAlgorithm(
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
)
_ED25519: Final = SignatureAlgorithm("eddsa", None, SignedDigestAlgorithm({"algorithm": "ed25519"}).dump())

SIGNATURE_ALGORITHMS: Final[dict[KeyType, SignatureAlgorithm]] = {
    "ec-p256": _ECDSA_SHA256,
    "ec-p384": _ECDSA_SHA384,
    "rsa-2048": _RSA_SHA256,
    "rsa-3072": _RSA_SHA256,
    "rsa-4096": _RSA_SHA256,
    "ed25519": _ED25519,
}

_CURVES: Final[dict[str, KeyType]] = {"secp256r1": "ec-p256", "secp384r1": "ec-p384"}
_RSA_SIZES: Final[dict[int, KeyType]] = {2048: "rsa-2048", 3072: "rsa-3072", 4096: "rsa-4096"}
_HASHES: Final = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}


def key_type_of(key: object) -> KeyType | None:
    """Name the type of a `cryptography` public key; None for one that otahsm does not handle."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA_SIZES.get(key.key_size)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    return None


def signature_algorithm(key: PublicKey, *, pss: bool = False) -> SignatureAlgorithm:
    """Say how a key signs.

    Args:
        key: of a type that `key_type_of` names.
        pss: whether an RSA key signs with PSS.
    """
    if pss and isinstance(key, rsa.RSAPublicKey):
        return RSA_PSS_SHA256
    return SIGNATURE_ALGORITHMS[cast(KeyType, key_type_of(key))]


def describe_key(key: object) -> str:
    """Say what a public key is, for an error message: "RSA of 1024 bits", "EC on secp256k1"."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC on {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")


def signature_is_valid(
    key: PublicKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes
) -> bool:
    """Tell whether `signature` (DER for ECDSA, raw for RSA and Ed25519) is `key`'s over `message`."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(_HASHES[algorithm.digest or "sha256"]))
        elif isinstance(key, rsa.RSAPublicKey):
            hash_ = _HASHES[algorithm.digest or "sha256"]
            key.verify(signature, message, _padding(algorithm), hash_)
        else:
            key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _padding(algorithm: SignatureAlgorithm) -> padding.AsymmetricPadding:
    if algorithm.family == "rsa-pss":
        return padding.PSS(padding.MGF1(hashes.SHA256()), PSS_SALT_BYTES)
    return padding.PKCS1v15()
