"""Opens a key for signing: finds it, checks what the token says of it, and chooses how it signs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import pkcs11
from pkcs11 import Attribute

from otahsm.errors import TokenRefusedError
from otahsm.pkcs11_names import KeyFlaw
from otahsm.pki.keytypes import PublicKey, is_pss, signature_algorithm
from otahsm.token.faults import explained
from otahsm.token.keys import find_private_key
from otahsm.token.mechanisms import choose_mechanism
from otahsm.token.session import Login
from otahsm.token.setup import KeyAccess
from otahsm.token.signing import PinAtEachSignature, SigningKey


class _Rule(NamedTuple):
    attribute: Attribute
    good: bool
    what: str


# PKCS#11 v2.40, section 4.9, table 27. A token that doesn't report one counts as one that reports the worse.
_RULES: Final[Mapping[KeyFlaw, _Rule]] = {
    "extractable": _Rule(Attribute.EXTRACTABLE, good=False, what="can be taken out of the token"),
    "not-sensitive": _Rule(Attribute.SENSITIVE, good=True, what="can be read in the clear"),
    "not-local": _Rule(Attribute.LOCAL, good=True, what="was not generated in the token: copies may exist"),
}


def open_key(login: Login, key_config: KeyAccess, public_key: PublicKey) -> SigningKey:
    """Find a key in the token and get it ready to sign.

    Args:
        login: where, and how to log in again if the key wants that for every signature.
        key_config: the key's section of the configuration.
        public_key: what its signatures must verify with.

    Raises:
        TokenUnavailableError: it is not there, or the token failed.
        TokenRefusedError: several are, or it could leave the token and the configuration doesn't accept that.
        ConfigError: `mechanism` does not go with it.
    """
    return get_ready(login, find_private_key(login.session, key_config.key), key_config, public_key)


def get_ready(
    login: Login, key: pkcs11.PrivateKey, key_config: KeyAccess, public_key: PublicKey
) -> SigningKey:
    """Check a key that was found, and choose how it signs. Raises as `open_key`."""
    algorithm = signature_algorithm(public_key, pss=is_pss(key_config.mechanism))
    with explained("showing what the key is"):
        _check_flaws(key, key_config)
        mechanism = choose_mechanism(login.session.token.slot, algorithm, key_config.mechanism)
        wants_pin = read_attribute(key, Attribute.ALWAYS_AUTHENTICATE)
        again = PinAtEachSignature(login.pin, login.guard) if wants_pin else None
    return SigningKey(key, public_key, algorithm, mechanism, again)


def find_flaws(key: pkcs11.PrivateKey) -> dict[KeyFlaw, str]:
    """Return what makes a key unfit, as the token reports it: by name, with the reason."""
    flaws: dict[KeyFlaw, str] = {}
    for flaw, rule in _RULES.items():
        value = read_attribute(key, rule.attribute)
        if value is not rule.good:
            reported = "is not reported" if value is None else f"is {str(value).lower()}"
            flaws[flaw] = f"it {rule.what} (CKA_{rule.attribute.name} {reported})"
    return flaws


def _check_flaws(key: pkcs11.PrivateKey, key_config: KeyAccess) -> None:
    """Refuse a key that could leave the token, or that came from outside.

    Raises:
        TokenRefusedError: what the token reports is not good, and `accept` doesn't name it.
    """
    found = {flaw: why for flaw, why in find_flaws(key).items() if flaw not in key_config.accept}
    if found:
        names = ", ".join(f'"{flaw}"' for flaw in sorted({*found, *key_config.accept}))
        raise TokenRefusedError(
            f"the key {key_config.key} is unfit as a root of trust: {'; '.join(found.values())}",
            hint="Generate a key in the token with `otahsm ca init`. If you must use this one (some tokens"
            f" report wrongly), accept it in the section that names it: accept = [{names}].",
        )


def read_attribute(key: pkcs11.PrivateKey, attribute: Attribute) -> bool | None:
    """Read a boolean attribute; None if the token does not report it."""
    try:
        return bool(key[attribute])
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, ValueError, NotImplementedError):
        return None
