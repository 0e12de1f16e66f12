"""What a token reports about a key and about itself, for reports and the records of ceremonies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import pkcs11
from pkcs11 import Attribute

from otahsm.pkcs11_names import KeyFlaw, Pkcs11Uri
from otahsm.pki.keytypes import PublicKey
from otahsm.pki.keytypes.family import encode_spki
from otahsm.token.opening import find_flaws
from otahsm.token.session import Login, describe_token

# In the words of PKCS#11 v2.40, section 4.9.
_REPORTED: Final = (
    Attribute.TOKEN,
    Attribute.PRIVATE,
    Attribute.SENSITIVE,
    Attribute.ALWAYS_SENSITIVE,
    Attribute.EXTRACTABLE,
    Attribute.NEVER_EXTRACTABLE,
    Attribute.LOCAL,
    Attribute.SIGN,
    Attribute.DECRYPT,
    Attribute.UNWRAP,
    Attribute.DERIVE,
    Attribute.MODIFIABLE,
    Attribute.ALWAYS_AUTHENTICATE,
)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A private key, as its token reports it.

    Attributes:
        token: which token it is in.
        key: its label and id.
        spki_sha256: the SHA-256 of its public key as SubjectPublicKeyInfo, in hexadecimal.
        attributes: its attributes by their PKCS#11 names, as the token claims them.
        flaws: what makes it unfit as a root of trust, with reasons.
    """

    token: Pkcs11Uri
    key: Pkcs11Uri
    spki_sha256: str
    attributes: dict[str, str]
    flaws: dict[KeyFlaw, str]


def read_facts(login: Login, key: pkcs11.PrivateKey, public_key: PublicKey) -> KeyFacts:
    """Read back what the token reports about a key.

    Raises:
        PKCS11Error: the token failed.
    """
    return KeyFacts(
        token=describe_token(login.session.token),
        key=Pkcs11Uri(object=key[Attribute.LABEL], id=key[Attribute.ID]),
        spki_sha256=hashlib.sha256(encode_spki(public_key)).hexdigest(),
        attributes=_attributes_of(key),
        flaws=find_flaws(key),
    )


def _attributes_of(key: pkcs11.PrivateKey) -> dict[str, str]:
    report = {}
    for attribute in _REPORTED:
        try:
            value = key[attribute]
        except (pkcs11.PKCS11Error, ValueError, NotImplementedError) as error:
            report[f"CKA_{attribute.name}"] = f"not reported ({type(error).__name__})"
        else:
            report[f"CKA_{attribute.name}"] = str(value).lower()
    return report
