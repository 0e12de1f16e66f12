"""Public keys as X.509 has them."""

from __future__ import annotations

import hashlib
from typing import Final, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from otahsm.errors import ConfigError
from otahsm.pki.der import children, contents
from otahsm.pki.keytypes import FAMILIES, KeyType, PublicKey, describe_key, key_type_of
from otahsm.pki.keytypes.ecdsa import P256_BEGINNING

# What `cryptography` raises for a key that is not what it should be.
KEY_ERRORS: Final = (ValueError, TypeError, UnsupportedAlgorithm)

# Where the point begins in an SPKI of P-256: with the octet that says it is uncompressed.
_P256_POINT: Final = len(P256_BEGINNING) - 1


def flaw(error: Exception) -> str:
    """Return what is wrong with what could not be parsed.

    `cryptography` writes for programmers; what it does not support it names.
    """
    return str(error) if isinstance(error, UnsupportedAlgorithm) else "it is malformed"


def load_public_key(spki: bytes) -> PublicKey:
    """Read a SubjectPublicKeyInfo in DER.

    Raises:
        ConfigError: it is none, or of a type that otahsm doesn't sign with.
    """
    try:
        key = load_der_public_key(spki)
    except KEY_ERRORS as error:
        raise ConfigError(f"can't read a public key: {flaw(error)}") from error
    if key_type_of(key) is None:
        raise ConfigError(f"otahsm does not sign with {describe_key(key)}")
    return cast(PublicKey, key)


def type_of_spki(spki: bytes) -> KeyType | None:
    """Name the type of a key by its SubjectPublicKeyInfo; None if it is not the canonical one of a key here.

    That is enough to know what a certificate will hold. Whether the key is weak is for `check_csr` to say.
    """
    for family in FAMILIES:
        if name := family.type_of_spki(spki):
            return cast(KeyType, name)
    return None


def subject_key_identifier(spki: bytes) -> bytes:
    """Return the 20 octets of RFC 5280, section 4.2.1.2, method 1: SHA-1 over the key's BIT STRING."""
    if spki.startswith(P256_BEGINNING):  # most keys: nothing to parse
        return hashlib.sha1(spki[_P256_POINT:], usedforsecurity=False).digest()
    _, bits = children(spki)
    return hashlib.sha1(contents(bits)[1:], usedforsecurity=False).digest()  # the first counts unused bits
