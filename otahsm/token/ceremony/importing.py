"""Puts a private key from a file into the token: for those who bring a CA that was made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, ObjectClass
from pkcs11 import KeyType as TokenKeyType

from otahsm.config import CaConfig, ReplicaConfig
from otahsm.errors import ConfigError, TokenRefusedError
from otahsm.pki.keytypes import PrivateKey, describe_key, family_of, key_type_of
from otahsm.token import keys
from otahsm.token.facts import KeyFacts, read_facts
from otahsm.token.opening import get_ready
from otahsm.token.session import logged_in
from otahsm.token.setup import PROBE

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
            hint="Create a new CA with `otahsm ca init`, which is better; or set"
            f' accept = ["not-local"] in [{section}], so that the daemon accepts the key too.',
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
                f"the token does not accept the key ({type(error).__name__})",
                hint="Many HSMs accept no private keys, or only wrapped ones: see the vendor's manual.",
            ) from None


def _values_of(key: PrivateKey) -> tuple[dict[Attribute, Any], dict[Attribute, Any]]:
    """Return the attributes that hold the private key's value, and the public key's."""
    family = family_of(key)
    assert family is not None  # noqa: S101 - its type is known
    kind = {Attribute.KEY_TYPE: TokenKeyType[family.token_kind]}
    private, public = (
        {Attribute[name]: value for name, value in values.items()} for values in family.token_values(key)
    )
    return {**kind, **private}, {**kind, **public}
