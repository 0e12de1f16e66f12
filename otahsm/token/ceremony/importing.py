"""Puts a private key from a file into the token: for those who bring a CA that was made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, TypeGuard

import pkcs11
from asn1crypto.core import OctetString
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, ObjectClass
from pkcs11 import KeyType as TokenKeyType

from otahsm.config import CaConfig, ReplicaConfig
from otahsm.errors import ConfigError, TokenRefusedError
from otahsm.pki import describe_key, key_type_of
from otahsm.token import keys
from otahsm.token.facts import KeyFacts, read_facts
from otahsm.token.opening import get_ready
from otahsm.token.pool import PROBE
from otahsm.token.session import logged_in

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_PRIVATE: Final[Mapping[Attribute, Any]] = {
    Attribute.CLASS: ObjectClass.PRIVATE_KEY,
    Attribute.TOKEN: True,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.SIGN: True,
}
_PUBLIC: Final[Mapping[Attribute, Any]] = {
    Attribute.CLASS: ObjectClass.PUBLIC_KEY,
    Attribute.TOKEN: True,
    Attribute.VERIFY: True,
}


def is_private_key(key: object) -> TypeGuard[PrivateKey]:
    """Tell whether it is a private key of a kind that can be put into a token."""
    return isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)


def import_key(token: ReplicaConfig, ca: CaConfig, section: str, key: PrivateKey) -> KeyFacts:
    """Write a key pair into the token, not extractable from now on, and have it sign once.

    Whatever the token says of it afterwards: copies of it were outside, and may still be.

    Args:
        token: where.
        ca: the CA that it is the key of.
        section: the name of the CA's section, for errors.
        key: what to write.

    Raises:
        ConfigError: it is of a type that otahsm doesn't sign with, or `ca` accepts no key from outside.
        TokenRefusedError: an object with the key's label or id exists, or the token takes no such key.
        OtahsmError: as `logged_in`. What was written before a failure is destroyed again.
    """
    if key_type_of(key.public_key()) is None:
        raise ConfigError(f"otahsm does not sign with {describe_key(key.public_key())}")
    if "not-local" not in ca.accept:
        raise ConfigError(
            f"[{section}] does not accept a key that was not generated in the token",
            hint=f'Write accept = ["not-local"] into [{section}], so that the daemon accepts it, too; or make'
            " a new CA with `otahsm ca init`, which is better.",
        )
    label, key_id = keys.label_and_id(ca)
    named = {Attribute.LABEL: label, Attribute.ID: key_id}
    private, public = _values_of(key)
    with logged_in(token, read_write=True) as login:
        made: list[Any] = []
        try:
            keys.refuse_existing(login.session, ca)
            with keys.destroyed_on_failure(made):
                made.append(login.session.create_object({**_PRIVATE, **named, **private}))
                made.append(login.session.create_object({**_PUBLIC, **named, **public}))
                get_ready(login, made[0], ca, key.public_key()).sign(PROBE)
                return read_facts(login, made[0], key.public_key())
        except pkcs11.PKCS11Error as error:
            raise TokenRefusedError(
                f"the token does not take the key ({type(error).__name__})",
                hint="Many HSMs take no private keys from outside, or only wrapped: see the vendor's manual.",
            ) from None


def _values_of(key: PrivateKey) -> tuple[dict[Attribute, Any], dict[Attribute, Any]]:
    """Return the attributes that hold the private key's value, and the public key's."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        public = {
            Attribute.KEY_TYPE: TokenKeyType.RSA,
            Attribute.MODULUS: _octets(numbers.public_numbers.n),
            Attribute.PUBLIC_EXPONENT: _octets(numbers.public_numbers.e),
        }
        return {
            **public,
            Attribute.PRIVATE_EXPONENT: _octets(numbers.d),
            Attribute.PRIME_1: _octets(numbers.p),
            Attribute.PRIME_2: _octets(numbers.q),
            Attribute.EXPONENT_1: _octets(numbers.dmp1),
            Attribute.EXPONENT_2: _octets(numbers.dmq1),
            Attribute.COEFFICIENT: _octets(numbers.iqmp),
        }, public
    kind, parameters = keys.curve_of(key.public_key())
    curve = {Attribute.KEY_TYPE: kind, Attribute.EC_PARAMS: parameters}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        value = key.private_bytes_raw()
        point = key.public_key().public_bytes_raw()
    else:
        value = key.private_numbers().private_value.to_bytes(key.key_size // 8, "big")
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return {**curve, Attribute.VALUE: value}, {**curve, Attribute.EC_POINT: OctetString(point).dump()}


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
