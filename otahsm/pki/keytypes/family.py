"""What a family of keys must know: everything that differs from one type of key to another.

What a token needs to know is data, in the names of PKCS#11: `token` turns it into calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar, cast

from asn1crypto.core import OctetString
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from otahsm.errors import RequestRefusedError

Digest = Literal["sha256", "sha384", "sha512"]
HASHES: Final[Mapping[Digest, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

TokenValues: TypeAlias = Mapping[str, bytes]  # by the names of attributes, as in "EC_POINT" for CKA_EC_POINT

_Name = TypeVar("_Name", bound=str)
_Public = TypeVar("_Public", bound=Any)
_Private = TypeVar("_Private", bound=Any)
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class TokenMechanism:
    """One way in which a token makes a signature (PKCS#11 v3.0, section 6).

    Attributes:
        name: as in "CKM_ECDSA".
        takes: what the token is given to sign.
    """

    name: str
    takes: Literal["message", "digest", "digest-info"]


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """How a key signs.

    Attributes:
        family: "rsa" and "rsa-pss" have the same keys.
        digest: what is signed in place of the message; None: the message itself.
        identifier: the AlgorithmIdentifier in DER.
        mechanisms: what a token can be asked for, the most portable first.
    """

    family: Literal["ecdsa", "rsa", "rsa-pss", "eddsa"]
    digest: Digest | None
    identifier: bytes
    mechanisms: tuple[TokenMechanism, ...]

    @property
    def hash(self) -> hashes.HashAlgorithm:
        """The digest, for `cryptography`."""
        return HASHES[self.digest or "sha256"]


@dataclass(frozen=True, slots=True)
class TokenParameters:
    """What a token needs to generate a key pair: the size of an RSA modulus, or CKA_EC_PARAMS."""

    modulus_bits: int = 0
    ec_params: bytes = b""


class KeyFamily(ABC, Generic[_Name, _Public, _Private]):
    """Key types that are used alike.

    Attributes:
        public_class, private_class: what `cryptography` reads such keys as.
        token_kind: the CKA_KEY_TYPE, as in "EC" for CKK_EC.
        algorithms: how each type signs.
    """

    public_class: ClassVar[type]
    private_class: ClassVar[type]
    token_kind: ClassVar[str]
    algorithms: Mapping[_Name, SignatureAlgorithm]

    @abstractmethod
    def type_of(self, key: _Public) -> _Name | None:
        """Name the type of a key of this family; None: it is not handled."""

    @abstractmethod
    def describe(self, key: _Public) -> str:
        """Describe a key for an error message, as in "RSA of 1024 bits"."""

    def check(self, key: _Public) -> None:
        """Check a key whose type is known; raises RequestRefusedError if it is weak or malformed."""

    def is_canonical(self, spki: bytes, key: _Public) -> bool:
        """Return whether an SPKI is the one DER encoding of the key that was read from it."""
        return spki == encode_spki(key)

    def type_of_spki(self, spki: bytes) -> _Name | None:
        """Name the type of a key by its canonical SPKI; None if that is not one of this family.

        It says what the octets are, not whether the key is a good one: see `check`.
        """
        try:
            key = load_der_public_key(spki)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None
        if not isinstance(key, self.public_class) or spki != encode_spki(key):
            return None
        return self.type_of(cast(_Public, key))

    @abstractmethod
    def verify(self, key: _Public, algorithm: SignatureAlgorithm, signature: bytes, message: bytes) -> None:
        """Verify a signature in the form that X.509 has; raises InvalidSignature."""

    @abstractmethod
    def generate(self, key_type: _Name) -> _Private:
        """Make a key in software."""

    @abstractmethod
    def sign(self, key: _Private, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
        """Sign in software; return the signature in the form that X.509 has."""

    @abstractmethod
    def token_parameters(self, key_type: _Name) -> TokenParameters:
        """Return what a token needs to generate a key."""

    @abstractmethod
    def token_values(self, key: _Private) -> tuple[TokenValues, TokenValues]:
        """Return what a private object holds of a key, and a public one."""

    @abstractmethod
    def from_token(self, value: Callable[[str], bytes]) -> _Public | None:
        """Read a public key object, whose attributes `value` returns by name; None: it is not handled."""

    def encode_token_signature(self, key: _Public, signature: bytes) -> bytes:
        """Turn what a token returns into the form that X.509 has."""
        del key
        return signature


def encode_spki(key: Any) -> bytes:
    """Encode a public key as the one DER SubjectPublicKeyInfo that it has (RFC 5280, section 4.1.2.7)."""
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def encode_point(point: bytes) -> bytes:
    """Encode a CKA_EC_POINT: a DER OCTET STRING (PKCS#11 v3.0, section 6.3.3)."""
    encoded: bytes = OctetString(point).dump()
    return encoded


def decode_point(point: bytes, decode: Callable[[bytes], _Key]) -> _Key:
    """Read a CKA_EC_POINT: a DER OCTET STRING on most tokens, and the bare point on some."""
    try:
        return decode(point)
    except ValueError:
        return decode(OctetString.load(point, strict=True).native)


def weak_key(kind: str, why: str) -> RequestRefusedError:
    """Make the error that refuses a weak key."""
    return RequestRefusedError(
        "csr.public_key",
        f"the {kind} key is unsafe: {why}",
        hint="Generate a new key on the device with a current library. If a secure element generated it, its"
        " firmware is faulty.",
    )
