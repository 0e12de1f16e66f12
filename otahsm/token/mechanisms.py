"""How a key signs: the mechanism, its input and its output."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import pkcs11
from asn1crypto.algos import DigestInfo
from asn1crypto.core import Null
from pkcs11 import MGF, Mechanism, MechanismFlag

from otahsm.errors import ConfigError
from otahsm.pki.keytypes import ALL_ALGORITHMS, MechanismName
from otahsm.pki.keytypes.family import SignatureAlgorithm, TokenMechanism
from otahsm.pki.keytypes.rsa import PSS_SALT_BYTES

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


_ALL: Final[Mapping[str, Mechanism]] = {
    way.name: Mechanism[way.name.removeprefix("CKM_")]
    for algorithm in ALL_ALGORITHMS
    for way in algorithm.mechanisms
}


def _as_it_is(message: bytes) -> bytes:
    return message


def _hashing(digest: str) -> Callable[[bytes], bytes]:
    make = getattr(hashlib, digest)

    def hashed(message: bytes) -> bytes:
        value: bytes = make(message).digest()
        return value

    return hashed


def _digest_info(message: bytes) -> bytes:
    return _DIGEST_INFO_SHA256 + hashlib.sha256(message).digest()


def mechanisms_for(algorithm: SignatureAlgorithm) -> Mapping[MechanismName, SigningMechanism]:
    """Return the mechanisms that make an algorithm's signatures, the most portable first."""
    parameter = _PSS_SHA256 if algorithm.family == "rsa-pss" else None
    return {
        cast(MechanismName, way.name): SigningMechanism(_ALL[way.name], _preparing(way, algorithm), parameter)
        for way in algorithm.mechanisms
    }


def _preparing(way: TokenMechanism, algorithm: SignatureAlgorithm) -> Callable[[bytes], bytes]:
    match way.takes:
        case "message":
            return _as_it_is
        case "digest":
            return _hashing(algorithm.hash.name)
        case "digest-info":
            return _digest_info


def choose_mechanism(
    slot: pkcs11.Slot, algorithm: SignatureAlgorithm, requested: MechanismName | None
) -> SigningMechanism:
    """Choose how a key signs: as the configuration says, or with the first mechanism that the token has.

    A token that says it has none of them is asked for the most portable one all the same: what tokens say of
    themselves is not always true, and a key signs once before it counts as found.

    Args:
        slot: where the token is.
        algorithm: what must come out.
        requested: the `mechanism` of the key's section, if it has one.

    Raises:
        ConfigError: the requested mechanism does not make the signature algorithm.
        PKCS11Error: the token failed.
    """
    possible = mechanisms_for(algorithm)
    if requested is not None:
        if requested not in possible:
            raise ConfigError(
                f"mechanism {requested} does not fit the key, which needs {' or '.join(possible)}",
                hint="Correct `mechanism`, or omit it to use one that the token supports.",
            )
        return possible[requested]
    present = signing_mechanisms(slot)
    return next((way for name, way in possible.items() if name in present), next(iter(possible.values())))


def signing_mechanisms(slot: pkcs11.Slot) -> list[MechanismName]:
    """List what a token says that it can sign with, of all that otahsm knows (C_GetMechanismInfo)."""
    listed = slot.get_mechanisms()
    return [cast(MechanismName, name) for name in sorted(_ALL) if _signs(slot, _ALL[name], listed)]


def _signs(slot: pkcs11.Slot, mechanism: Mechanism, listed: set[Mechanism]) -> bool:
    if mechanism not in listed:
        return False
    try:
        return MechanismFlag.SIGN in slot.get_mechanism_info(mechanism).flags
    except pkcs11.PKCS11Error:
        return True  # it is listed: the first signature will tell
