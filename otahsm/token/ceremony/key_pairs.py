"""Makes our keys in the token, and shows what the token says of the CA's."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, get_args

import pkcs11

from otahsm.config import CaConfig, KeyConfig, ReplicaConfig
from otahsm.errors import TokenRefusedError, TokenUnavailableError
from otahsm.pkcs11_names import KeyFlaw, Pkcs11Uri
from otahsm.pki.certificate import Validity, assemble
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import KeyType, MechanismName, PublicKey
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.root import RootKind, build_root_tbs
from otahsm.pki.serial import SERIAL_RANDOM_BYTES, make_serial
from otahsm.token import keys
from otahsm.token.facts import KeyFacts, read_facts
from otahsm.token.faults import explained
from otahsm.token.files import write_certificate
from otahsm.token.mechanisms import signing_mechanisms
from otahsm.token.opening import get_ready
from otahsm.token.session import Login, logged_in
from otahsm.token.setup import PROBE
from otahsm.token.signing import SigningKey

MAX_NAME: Final = 64  # ub-common-name and ub-organization-name (RFC 5280, appendix A.1)
CHECKPOINT_KEY_TYPE: Final = "ec-p256"  # what every token has, and notes can be signed with


class Made(NamedTuple):
    """What a ceremony made, in DER, and the key that it made or used, read back from the token."""

    der: bytes
    facts: KeyFacts


@dataclass(frozen=True, slots=True)
class KeyReport:
    """The CA key as the token shows it, what the token signs with, and whether it is the certificate's."""

    facts: KeyFacts
    mechanisms: list[MechanismName]
    matches_certificate: bool


class NewKey(NamedTuple):
    """A key pair that was just made, or that is used again."""

    public_key: PublicKey
    signing: SigningKey
    facts: KeyFacts


def create_root(
    token: ReplicaConfig,
    ca: CaConfig,
    *,
    key_type: KeyType,
    common_name: str,
    validity: Validity,
    kind: RootKind,
    path_length: int = 0,
) -> Made:
    """Generate the CA key pair in the token and its self-signed root certificate.

    Args:
        token: where.
        ca: the key's label and id.
        key_type: of the key.
        common_name: the root's, 1 to 64 characters.
        validity: the root's, in whole seconds.
        kind: see `otahsm.pki.root`.
        path_length: how many CAs may be below it, as `build_root_tbs` takes it.

    Returns:
        The certificate. The key is only in the token.

    Raises:
        TokenRefusedError: an object with the key's label or id exists, or the token can't make such a key.
        OtahsmError: as `logged_in`. A key that was made before a failure is destroyed again.
    """
    with new_key(token, ca, key_type) as key:
        tbs = build_root_tbs(
            common_name=common_name,
            spki=encode_spki(key.public_key),
            algorithm=key.signing.algorithm,
            serial=new_serial(validity.not_before),
            validity=validity,
            kind=kind,
            path_length=path_length,
        )
        return Made(assemble(tbs, key.signing.algorithm, key.signing.sign(tbs)), key.facts)


def valid_for(days: int, now: datetime) -> Validity:
    """Return the validity of a root that is made now, in whole seconds."""
    begin = now.replace(microsecond=0)
    return Validity(begin, begin + timedelta(days=days))


def create_checkpoint_key(token: ReplicaConfig, key_config: KeyConfig) -> Made:
    """Generate the key pair that signs checkpoints, on P-256, and have it sign once.

    Returns:
        The public key as SubjectPublicKeyInfo. The private key is only in the token.

    Raises:
        TokenRefusedError: an object with the key's label or id exists, or the token can't make such a key.
        OtahsmError: as `logged_in`. A key that was made before a failure is destroyed again.
    """
    with new_key(token, key_config, CHECKPOINT_KEY_TYPE) as key:
        key.signing.sign(PROBE)
        return Made(encode_spki(key.public_key), key.facts)


@contextlib.contextmanager
def new_key(token: ReplicaConfig, key_config: KeyConfig, key_type: KeyType) -> Iterator[NewKey]:
    """Log in and generate a key pair; destroy it again if the block fails.

    Raises:
        TokenRefusedError: an object with the key's label or id exists, or the token can't make such a key.
        OtahsmError: as `logged_in`.
    """
    with logged_in(token, read_write=True) as login:
        with explained("looking for existing keys"):
            keys.refuse_existing(login.session, key_config)
        public, private = keys.generate(login.session, key_config, key_type)
        with explained("reading the new public key"), keys.destroyed_on_failure((public, private)):
            public_key = keys.decode_public_key(public)
            signing = get_ready(login, private, key_config, public_key)
            yield NewKey(public_key, signing, read_facts(login, private, public_key))


def new_serial(now: datetime) -> int:
    """Draw a serial number; see `make_serial`."""
    return make_serial(os.urandom(SERIAL_RANDOM_BYTES), int(now.timestamp() * 1000))


def inspect_key(token: ReplicaConfig, ca: CaConfig, issuer: Issuer) -> KeyReport:
    """Read back what the token says of the CA key, and make it sign once.

    Raises:
        OtahsmError: as `logged_in`; or the key is not there.
    """
    with logged_in(token) as login, explained("being inspected"):
        private = keys.find_private_key(login.session, ca.key)
        return KeyReport(
            facts=read_facts(login, private, issuer.public_key),
            mechanisms=signing_mechanisms(login.session.token.slot),
            matches_certificate=_signs_for(login, private, ca, issuer),
        )


def destroy_key(token: ReplicaConfig, ca: CaConfig, issuer: Issuer) -> KeyFacts:
    """Destroy a CA's key pair, after it has shown with a signature that it is the certificate's.

    Returns:
        The flaws of the key that the token reported before.

    Raises:
        BadSignatureError: it is another key; nothing was destroyed.
        OtahsmError: as `logged_in` and `open_key`.
    """
    with logged_in(token, read_write=True) as login, explained(f"destroying the key {ca.key}"):
        private = keys.find_private_key(login.session, ca.key)
        facts = read_facts(login, private, issuer.public_key)
        get_ready(login, private, _accepting_all(ca), issuer.public_key).sign(PROBE)
        keys.destroy_pair(login.session, ca)
    return facts


def key_types(token: ReplicaConfig) -> list[KeyType]:
    """List the types of keys that the token can sign with. Raises as `logged_in`."""
    with logged_in(token) as login:
        return keys.possible_key_types(login.session.token.slot)


@contextlib.contextmanager
def throwaway_ca(
    token: ReplicaConfig,
    folder: Path,
    key_type: KeyType,
    now: datetime,
) -> Iterator[CaConfig]:
    """Make a CA in the token for as long as the block runs; its key is destroyed at the end.

    What it signs is worth nothing, so that the fleet's CA need not sign to be measured. Its certificate is
    written into `folder`.

    Raises:
        OtahsmError: as `create_root`.
    """
    name = f"{keys.THROWAWAY_LABEL}{secrets.token_hex(8)}"
    key = Pkcs11Uri(object=name, id=secrets.token_bytes(8))
    ca = CaConfig(certificate=folder / f"{name}.pem", key=key)
    validity = valid_for(1, now)
    root = create_root(token, ca, key_type=key_type, common_name=name, validity=validity, kind="root")
    try:
        write_certificate(ca.certificate, root.der)
        yield ca
    finally:
        with logged_in(token, read_write=True) as login, explained(f"destroying the throwaway key {name}"):
            keys.destroy_throwaway(login.session, ca)


def _signs_for(login: Login, private: pkcs11.PrivateKey, ca: CaConfig, issuer: Issuer) -> bool:
    try:
        get_ready(login, private, _accepting_all(ca), issuer.public_key).sign(PROBE)
    except (TokenUnavailableError, TokenRefusedError):
        return False
    return True


def _accepting_all(ca: CaConfig) -> CaConfig:
    """Return a CA's section as if it accepted any key: to look at one, or to destroy it."""
    every: frozenset[KeyFlaw] = frozenset(get_args(KeyFlaw))
    return ca.model_copy(update={"accept": every})
