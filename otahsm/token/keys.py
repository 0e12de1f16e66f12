"""Our keys in the token: generates, finds and destroys them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

import pkcs11
from pkcs11 import Attribute, ObjectClass
from pkcs11 import KeyType as TokenKeyType
from pkcs11.constants import DEFAULT

from otahsm.errors import ConfigError, OtahsmError, TokenRefusedError, TokenUnavailableError
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.pki.keytypes import FAMILIES, SIGNATURE_ALGORITHMS, KeyType, PublicKey, family_of_type
from otahsm.token.faults import explained
from otahsm.token.mechanisms import mechanisms_for, signing_mechanisms
from otahsm.token.setup import KeyAccess

THROWAWAY_LABEL: Final = "otahsm-bench-"  # what the labels of keys begin with that may be destroyed
_MOST_SHOWN: Final = 8
_OTHER_USES: Final = (Attribute.SIGN_RECOVER, Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE)


def refuse_existing(session: pkcs11.Session, key_config: KeyAccess) -> None:
    """Make sure that no object carries the key's label or id yet.

    Raises:
        ConfigError: the key's URI lacks one of both.
        TokenRefusedError: an object has one.
    """
    label, key_id = label_and_id(key_config)
    either: tuple[dict[Attribute, Any], ...] = ({Attribute.LABEL: label}, {Attribute.ID: key_id})
    for attributes in either:
        for found in session.get_objects(attributes):
            what = ObjectClass(found[Attribute.CLASS]).name.lower().replace("_", " ")
            raise TokenRefusedError(
                f"the token already holds a {what} with label {found[Attribute.LABEL]!r} and id"
                f" {found[Attribute.ID].hex()}; nothing was changed",
                hint="Choose another label (object) and id for the new key, or use the existing one.",
            )


def generate(
    session: pkcs11.Session, key_config: KeyAccess, key_type: KeyType
) -> tuple[pkcs11.PublicKey, pkcs11.PrivateKey]:
    """Generate a key pair: token object, private, sensitive, not extractable, for signing alone.

    Some tokens refuse a template that says what a key may *not* do; they are asked again without.

    Raises:
        TokenRefusedError: the token can't make or use such a key.
    """
    try:
        return _generate(session, key_config, key_type, dict.fromkeys(_OTHER_USES, False))
    except pkcs11.PKCS11Error:
        pass
    try:
        return _generate(session, key_config, key_type, dict.fromkeys(_OTHER_USES, DEFAULT))
    except pkcs11.PKCS11Error as error:
        raise TokenRefusedError(
            f"the token can't generate a key of type {key_type} ({type(error).__name__})",
            hint="`otahsm ca show` lists what the token can sign with; choose another --key-type.",
        ) from error


def _generate(
    session: pkcs11.Session,
    key_config: KeyAccess,
    key_type: KeyType,
    unused: Mapping[Attribute, object],
) -> tuple[pkcs11.PublicKey, pkcs11.PrivateKey]:
    label, key_id = label_and_id(key_config)
    arguments: dict[str, Any] = {
        "label": label,
        "id": key_id,
        "store": True,
        "public_template": {Attribute.VERIFY: True, Attribute.ENCRYPT: DEFAULT, Attribute.WRAP: DEFAULT},
        "private_template": {
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN: True,
            **unused,
        },
    }
    family = family_of_type(key_type)
    kind, needs = TokenKeyType[family.token_kind], family.token_parameters(key_type)
    if needs.modulus_bits:
        return session.generate_keypair(kind, needs.modulus_bits, **arguments)
    domain = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: needs.ec_params}, local=True)
    return domain.generate_keypair(**arguments)


def find_private_key(session: pkcs11.Session, uri: Pkcs11Uri) -> pkcs11.PrivateKey:
    """Find the one private key that a URI names, by label, id or both.

    Raises:
        TokenUnavailableError: it is not there (some tokens say so when they mean "logged out").
        TokenRefusedError: there is more than one.
    """
    with explained("looking for the key"):
        found = list(session.get_objects(_template(uri)))
        if len(found) == 1:
            return cast(pkcs11.PrivateKey, found[0])
        shown = found or list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))
        uris = (Pkcs11Uri(object=key[Attribute.LABEL], id=key[Attribute.ID]) for key in shown[:_MOST_SHOWN])
        listing = ", ".join(map(str, uris)) or "none"
    if found:
        raise TokenRefusedError(
            f"{len(found)} private keys in the token match {uri}: {listing}",
            hint="Name exactly one: give both label (object) and id in the section that names it.",
        )
    raise TokenUnavailableError(
        f"no private key in the token matches {uri}; the token shows {listing}",
        hint="Correct `key` in the section that names it. `otahsm ca init` creates the CA's key, and"
        " `otahsm ledger init-key` the checkpoint key.",
    )


def _template(uri: Pkcs11Uri) -> dict[Attribute, Any]:
    template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if uri.object is not None:
        template[Attribute.LABEL] = uri.object
    if uri.id is not None:
        template[Attribute.ID] = uri.id
    return template


def label_and_id(key_config: KeyAccess) -> tuple[str, bytes]:
    """Return what a new key is called; both, so that nothing else is taken for it. Raises ConfigError."""
    if not key_config.key.object or not key_config.key.id:
        raise ConfigError(
            f"a new key needs a label and an id, and {key_config.key} lacks one",
            hint="Write it as in pkcs11:object=fleet-root;id=%01.",
        )
    return key_config.key.object, key_config.key.id


def destroy_throwaway(session: pkcs11.Session, key_config: KeyAccess) -> None:
    """Destroy a throwaway key pair, and no other.

    Raises:
        ValueError: its label is not that of a throwaway.
        PKCS11Error: the token failed.
    """
    label, _ = label_and_id(key_config)
    if not label.startswith(THROWAWAY_LABEL):
        raise ValueError(f"{label!r} is not the label of a throwaway key")
    destroy_pair(session, key_config)


def destroy_pair(session: pkcs11.Session, key_config: KeyAccess) -> None:
    """Destroy every object with a key's label and id: the private key, and the public one beside it.

    Raises:
        ConfigError: the key's URI lacks one of both.
        PKCS11Error: the token failed.
    """
    label, key_id = label_and_id(key_config)
    for key in list(session.get_objects({Attribute.LABEL: label, Attribute.ID: key_id})):
        key.destroy()


@contextlib.contextmanager
def destroyed_on_failure(made: Sequence[pkcs11.Key]) -> Iterator[None]:
    """Destroy what was made, as far as the token can, if the block fails."""
    try:
        yield
    except (OtahsmError, pkcs11.PKCS11Error):
        for key in made:
            with contextlib.suppress(pkcs11.PKCS11Error):
                key.destroy()
        raise


def decode_public_key(key: pkcs11.Key) -> PublicKey:
    """Turn a public key object into a `cryptography` key.

    Raises:
        TokenRefusedError: it is of a type that otahsm doesn't sign with.
    """
    kind = key[Attribute.KEY_TYPE]
    for family in FAMILIES:
        if kind == TokenKeyType[family.token_kind]:
            public: PublicKey | None = family.from_token(lambda name: key[Attribute[name]])
            if public is not None and family.type_of(public) is not None:
                return public
    raise TokenRefusedError("the key in the token is of a type that otahsm doesn't sign with")


def possible_key_types(slot: pkcs11.Slot) -> list[KeyType]:
    """List the types of keys that the token can sign with, as its mechanisms say."""
    present = signing_mechanisms(slot)
    return [
        kind
        for kind, algorithm in SIGNATURE_ALGORITHMS.items()
        if any(name in present for name in mechanisms_for(algorithm))
    ]
