"""A CA below an external root, and the proof for a cloud that its key is ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, cast

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, ObjectClass

from otahsm.config import CaConfig, KeyConfig, ReplicaConfig
from otahsm.errors import TokenRefusedError
from otahsm.pki.certificate import Validity, assemble
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import KeyType, PublicKey
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.request import build_ca_request_info
from otahsm.pki.root import build_possession_tbs
from otahsm.token.ceremony.key_pairs import Made, NewKey, new_key, new_serial
from otahsm.token.facts import KeyFacts, read_facts
from otahsm.token.faults import explained
from otahsm.token.keys import decode_public_key, find_private_key
from otahsm.token.opening import get_ready
from otahsm.token.session import logged_in
from otahsm.token.setup import PROBE

_POSSESSION_DAYS: Final = 30


def create_request(
    token: ReplicaConfig, ca: CaConfig, *, key_type: KeyType | None, common_name: str, organization: str
) -> Made:
    """Make a CSR for a CA below an external root, with a new key or the one that is there.

    Args:
        token: where.
        ca: the key's label and id, for a new one.
        key_type: of the key to generate; None takes the key that exists.
        common_name: the CA's name, 1 to 64 characters.
        organization: the same, or "".

    Returns:
        The CSR.

    Raises:
        OtahsmError: as `new_key`, or `existing_key`.
    """
    opening = existing_key(token, ca) if key_type is None else new_key(token, ca, key_type)
    with opening as key:
        info = build_ca_request_info(common_name, organization, encode_spki(key.public_key))
        return Made(assemble(info, key.signing.algorithm, key.signing.sign(info)), key.facts)


def check_key(token: ReplicaConfig, ca: KeyConfig, public_key: PublicKey) -> KeyFacts:
    """Sign with the key in the token, and check the signature with the public key of a certificate.

    Raises:
        BadSignatureError: it is not.
        OtahsmError: as `existing_key`.
    """
    with existing_key(token, ca, public_key) as key:
        key.signing.sign(PROBE)
        return key.facts


def prove_possession(token: ReplicaConfig, ca: CaConfig, issuer: Issuer, code: str, now: datetime) -> Made:
    """Make the certificate that a cloud wants to see before it trusts a CA: see `build_possession_tbs`.

    Its own key is made here and forgotten. Raises OtahsmError as `existing_key`.
    """
    spki = encode_spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    begin = now.replace(microsecond=0)
    validity = Validity(begin, min(begin + timedelta(days=_POSSESSION_DAYS), issuer.not_after))
    with existing_key(token, ca, issuer.public_key) as key:
        tbs = build_possession_tbs(code, spki, issuer, serial=new_serial(now), validity=validity)
        return Made(assemble(tbs, issuer.algorithm, key.signing.sign(tbs)), key.facts)


@contextlib.contextmanager
def existing_key(
    token: ReplicaConfig, key_config: KeyConfig, public_key: PublicKey | None = None
) -> Iterator[NewKey]:
    """Log in and open a key that exists.

    Args:
        token: where.
        key_config: which key.
        public_key: what its signatures must verify with; None reads it from the token.

    Raises:
        OtahsmError: as `logged_in` and `open_key`; or the token has no public key beside the private one.
    """
    with logged_in(token) as login:
        with explained("showing the key"):
            private = find_private_key(login.session, key_config.key)
            known = public_key or _public_key_of(login.session, private)
            signing = get_ready(login, private, key_config, known)
            facts = read_facts(login, private, known)
        yield NewKey(known, signing, facts)


def _public_key_of(session: pkcs11.Session, private: pkcs11.PrivateKey) -> PublicKey:
    template = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: private[Attribute.ID]}
    found = list(session.get_objects(template))
    if len(found) != 1:
        raise TokenRefusedError(
            f"the token has {len(found)} public keys with the id of the private key, and needs exactly one",
            hint="Generate a new key, or add the public key with the vendor's tool.",
        )
    return decode_public_key(cast(pkcs11.PublicKey, found[0]))
