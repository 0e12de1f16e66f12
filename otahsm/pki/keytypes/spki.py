"""Public keys as X.509 has them."""

from __future__ import annotations

import hashlib
from typing import Final, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from otahsm.errors import ConfigError
from otahsm.pki.der import children, contents
from otahsm.pki.keytypes import FAMILIES, KeyType, PublicKey, describe_key, key_type_of

# What `cryptography` raises for a key that is not what it should be.
KEY_ERRORS: Final = (ValueError, TypeError, UnsupportedAlgorithm)


# Where the key itself begins in an SPKI of P-256, after what all of them begin with (RFC 5480, section 2).
_PREFIX_OCTETS: Final = 26
_KEY_STARTS: Final = {
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"): _PREFIX_OCTETS,
}


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
    if start := _KEY_STARTS.get(spki[:_PREFIX_OCTETS]):  # most keys: nothing to parse
        return hashlib.sha1(spki[start:], usedforsecurity=False).digest()
    _, bits = children(spki)
    return hashlib.sha1(contents(bits)[1:], usedforsecurity=False).digest()  # the first counts unused bits
