"""Makes our keys in the token, and shows what the token says of the CA's."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, get_args

import pkcs11
from asn1crypto import pem

from otahsm.config import CaConfig, KeyConfig, KeyFlaw, KeyType, Pkcs11Uri, ReplicaConfig
from otahsm.errors import ConfigError, OtahsmError, TokenRefusedError, TokenUnavailableError
from otahsm.pki import (
    SERIAL_RANDOM_BYTES,
    Issuer,
    PublicKey,
    RootKind,
    Validity,
    assemble,
    build_root_tbs,
    encode_spki,
    make_serial,
)
from otahsm.token import keys
from otahsm.token.faults import explain
from otahsm.token.mechanisms import signing_mechanisms
from otahsm.token.opening import find_flaws, get_ready
from otahsm.token.pool import PROBE
from otahsm.token.session import Login, describe_token, logged_in
from otahsm.token.signing import SigningKey

MAX_ROOT_NAME: Final = 64  # ub-common-name (RFC 5280, appendix A.1)
CHECKPOINT_KEY_TYPE: Final = "ec-p256"  # what every token has, and notes can be signed with


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What a token says of the CA key, and what the CA certificate says of the token's key."""

    token: str
    mechanisms: list[str]
    attributes: dict[str, str]
    flaws: dict[KeyFlaw, str]
    matches_certificate: bool


def create_root(
    token: ReplicaConfig,
    ca: CaConfig,
    *,
    key_type: KeyType,
    common_name: str,
    now: datetime,
    days: int,
    kind: RootKind,
) -> bytes:
    """Generate the CA key pair in the token and its self-signed root certificate.

    Returns:
        The certificate in DER. The key is only in the token.

    Raises:
        TokenRefusedError: an object with the key's label or id exists, or the token can't make such a key.
        OtahsmError: as `logged_in`. A key that was made before a failure is destroyed again.
    """
    with _new_key(token, ca, key_type) as (public_key, key):
        return _self_sign(public_key, key, common_name, now, days, kind)


def create_checkpoint_key(token: ReplicaConfig, wanted: KeyConfig) -> bytes:
    """Generate the key pair that signs checkpoints, on P-256, and have it sign once.

    Returns:
        The public key as SubjectPublicKeyInfo in DER. The private key is only in the token.

    Raises:
        TokenRefusedError: an object with the key's label or id exists, or the token can't make such a key.
        OtahsmError: as `logged_in`. A key that was made before a failure is destroyed again.
    """
    with _new_key(token, wanted, CHECKPOINT_KEY_TYPE) as (public_key, key):
        key.sign(PROBE)
        return encode_spki(public_key)


@contextlib.contextmanager
def _new_key(
    token: ReplicaConfig, wanted: KeyConfig, key_type: KeyType
) -> Iterator[tuple[PublicKey, SigningKey]]:
    """Log in and generate a key pair; destroy it again if the block fails."""
    with logged_in(token, read_write=True) as login:
        try:
            keys.refuse_existing(login.session, wanted)
        except pkcs11.PKCS11Error as error:
            raise explain(error, "looking for existing keys") from None
        public, private = keys.generate(login.session, wanted, key_type)
        try:
            public_key = keys.decode_public_key(public)
            yield public_key, get_ready(login, private, wanted, public_key)
        except (OtahsmError, pkcs11.PKCS11Error) as error:
            for key in (public, private):
                with contextlib.suppress(pkcs11.PKCS11Error):
                    key.destroy()
            if isinstance(error, pkcs11.PKCS11Error):
                raise explain(error, "reading the new public key") from None
            raise


def _self_sign(
    public_key: PublicKey, key: SigningKey, common_name: str, now: datetime, days: int, kind: RootKind
) -> bytes:
    not_before = now.replace(microsecond=0)
    tbs = build_root_tbs(
        common_name=common_name,
        spki=encode_spki(public_key),
        algorithm=key.algorithm,
        serial=make_serial(os.urandom(SERIAL_RANDOM_BYTES), int(now.timestamp() * 1000)),
        validity=Validity(not_before, not_before + timedelta(days=days)),
        kind=kind,
    )
    return assemble(tbs, key.algorithm, key.sign(tbs))


def inspect_key(token: ReplicaConfig, ca: CaConfig, issuer: Issuer) -> KeyReport:
    """Read back what the token says of the CA key, and make it sign once.

    Raises:
        OtahsmError: as `logged_in`; or the key is not there.
    """
    with logged_in(token) as login:
        try:
            private = keys.find_private_key(login.session, ca.key)
            report = KeyReport(
                token=str(describe_token(login.session.token)),
                mechanisms=list(signing_mechanisms(login.session.token.slot)),
                attributes=keys.attributes_of(private),
                flaws=find_flaws(private),
                matches_certificate=_signs_for(login, private, ca, issuer),
            )
        except pkcs11.PKCS11Error as error:
            raise explain(error, "being inspected") from None
    return report


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
    accept: frozenset[KeyFlaw] = frozenset(),
) -> Iterator[CaConfig]:
    """Make a CA in the token for as long as the block runs; its key is destroyed at the end.

    What it signs is worth nothing, so that the fleet's CA need not sign to be measured. Its certificate is
    written into `folder`. `accept` is as in [ca].

    Raises:
        OtahsmError: as `create_root`.
    """
    name = f"{keys.THROWAWAY_LABEL}{secrets.token_hex(8)}"
    key = Pkcs11Uri(object=name, id=secrets.token_bytes(8))
    ca = CaConfig(certificate=folder / f"{name}.pem", key=key, accept=accept)
    root = create_root(token, ca, key_type=key_type, common_name=name, now=now, days=1, kind="root")
    try:
        write_certificate(ca.certificate, root)
        yield ca
    finally:
        with logged_in(token, read_write=True) as login:
            try:
                keys.destroy_throwaway(login.session, ca)
            except pkcs11.PKCS11Error as error:
                raise explain(error, f"destroying the throwaway key {name}") from None


def _signs_for(login: Login, private: pkcs11.PrivateKey, ca: CaConfig, issuer: Issuer) -> bool:
    every: frozenset[KeyFlaw] = frozenset(get_args(KeyFlaw))
    accepting = ca.model_copy(update={"accept": every})
    try:
        get_ready(login, private, accepting, issuer.public_key).sign(PROBE)
    except (TokenUnavailableError, TokenRefusedError):
        return False
    return True


def write_certificate(path: Path, der: bytes) -> None:
    """Write a new CA certificate as PEM, durably; never over an existing file.

    Raises:
        ConfigError: the file exists or can't be written.
    """
    _write_new(path, pem.armor("CERTIFICATE", der), "the CA certificate")


def write_verifier_key(path: Path, vkey: str) -> None:
    """Write a new verifier key (c2sp.org/signed-note), durably; never over an existing file.

    Raises:
        ConfigError: the file exists or can't be written.
    """
    _write_new(path, f"{vkey}\n".encode(), "the verifier key")


def _write_new(path: Path, content: bytes, what: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"{what} {path} can't be written: {error.strerror}") from None
