"""How a key is made to sign: one of the mechanisms that the token has, and what goes in and comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import pkcs11
from asn1crypto.algos import DigestInfo
from asn1crypto.core import Null
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from pkcs11 import MGF, Mechanism, MechanismFlag

from otahsm.config import MechanismName
from otahsm.errors import ConfigError
from otahsm.pki import PSS_SALT_BYTES, SignatureAlgorithm

_DIGEST_INFO_SHA256: Final[bytes] = DigestInfo(
    {"digest_algorithm": {"algorithm": "sha256", "parameters": Null()}, "digest": bytes(32)}
).dump()[:-32]
_PSS_SHA256: Final = (Mechanism.SHA256, MGF.SHA256, PSS_SALT_BYTES)


@dataclass(frozen=True, slots=True)
class SigningMechanism:
    """One way to sign.

    Attributes:
        mechanism: what the token is asked for.
        prepare: makes of a message what the token is given.
        parameter: the mechanism's parameter, as python-pkcs11 takes it.
    """

    mechanism: Mechanism
    prepare: Callable[[bytes], bytes]
    parameter: tuple[Mechanism, MGF, int] | None = None


def _as_it_is(message: bytes) -> bytes:
    return message


def _sha256(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def _sha384(message: bytes) -> bytes:
    return hashlib.sha384(message).digest()


def _digest_info(message: bytes) -> bytes:
    return _DIGEST_INFO_SHA256 + hashlib.sha256(message).digest()


# For each algorithm the mechanisms that make it, the most portable first: the digest is made here, and signed
# in one part.
_ECDSA_SHA256: Final[Mapping[MechanismName, SigningMechanism]] = {
    "CKM_ECDSA": SigningMechanism(Mechanism.ECDSA, _sha256),
    "CKM_ECDSA_SHA256": SigningMechanism(Mechanism.ECDSA_SHA256, _as_it_is),
}
_ECDSA_SHA384: Final[Mapping[MechanismName, SigningMechanism]] = {
    "CKM_ECDSA": SigningMechanism(Mechanism.ECDSA, _sha384),
    "CKM_ECDSA_SHA384": SigningMechanism(Mechanism.ECDSA_SHA384, _as_it_is),
}
_RSA: Final[Mapping[MechanismName, SigningMechanism]] = {
    "CKM_RSA_PKCS": SigningMechanism(Mechanism.RSA_PKCS, _digest_info),
    "CKM_SHA256_RSA_PKCS": SigningMechanism(Mechanism.SHA256_RSA_PKCS, _as_it_is),
}
_RSA_PSS: Final[Mapping[MechanismName, SigningMechanism]] = {
    "CKM_RSA_PKCS_PSS": SigningMechanism(Mechanism.RSA_PKCS_PSS, _sha256, _PSS_SHA256),
    "CKM_SHA256_RSA_PKCS_PSS": SigningMechanism(Mechanism.SHA256_RSA_PKCS_PSS, _as_it_is, _PSS_SHA256),
}
_EDDSA: Final[Mapping[MechanismName, SigningMechanism]] = {
    "CKM_EDDSA": SigningMechanism(Mechanism.EDDSA, _as_it_is)
}
_ALL: Final = tuple({*_ECDSA_SHA256, *_ECDSA_SHA384, *_RSA, *_RSA_PSS, *_EDDSA})


def mechanisms_for(algorithm: SignatureAlgorithm) -> Mapping[MechanismName, SigningMechanism]:
    """Return the mechanisms that make an algorithm's signatures, the most portable first."""
    match algorithm.family:
        case "ecdsa":
            return _ECDSA_SHA384 if algorithm.digest == "sha384" else _ECDSA_SHA256
        case "rsa":
            return _RSA
        case "rsa-pss":
            return _RSA_PSS
        case "eddsa":
            return _EDDSA


def choose_mechanism(
    slot: pkcs11.Slot, algorithm: SignatureAlgorithm, wanted: MechanismName | None
) -> SigningMechanism:
    """Choose how a key signs: as the configuration says, or with the first mechanism that the token has.

    A token that says it has none of them is asked for the most portable one all the same: what tokens say of
    themselves is not always true, and a key signs once before it counts as found.

    Args:
        slot: where the token is.
        algorithm: what must come out.
        wanted: the `mechanism` of the key's section, if it has one.

    Raises:
        ConfigError: what is wanted does not make what must come out.
        PKCS11Error: the token failed.
    """
    possible = mechanisms_for(algorithm)
    if wanted is not None:
        if wanted not in possible:
            raise ConfigError(
                f"mechanism {wanted} does not go with the key: it takes {' or '.join(possible)}",
                hint="Correct `mechanism`, or leave it out: it is chosen from what the token has.",
            )
        return possible[wanted]
    present = signing_mechanisms(slot)
    return next((way for name, way in possible.items() if name in present), next(iter(possible.values())))


def signing_mechanisms(slot: pkcs11.Slot) -> list[MechanismName]:
    """List what a token says that it can sign with, of all that otahsm knows (C_GetMechanismInfo)."""
    listed = slot.get_mechanisms()
    return [name for name in sorted(_ALL) if _signs(slot, Mechanism[name.removeprefix("CKM_")], listed)]


def _signs(slot: pkcs11.Slot, mechanism: Mechanism, listed: set[Mechanism]) -> bool:
    if mechanism not in listed:
        return False
    try:
        return MechanismFlag.SIGN in slot.get_mechanism_info(mechanism).flags
    except pkcs11.PKCS11Error:
        return True  # it is listed: the first signature will tell


def encode_ecdsa(signature: bytes, coordinate_bytes: int) -> bytes:
    """Encode an ECDSA signature as X.509 wants it: Ecdsa-Sig-Value (RFC 3279, section 2.2.3) in DER.

    Tokens return r and s one after the other (PKCS#11 v2.40, section 2.3.1); one that returns DER is
    believed. What is neither is returned as it is: it will not verify.
    """
    if len(signature) == 2 * coordinate_bytes:
        r, s = signature[:coordinate_bytes], signature[coordinate_bytes:]
        return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    try:
        return encode_dss_signature(*decode_dss_signature(signature))
    except ValueError:
        return signature
