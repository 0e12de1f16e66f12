"""Makes our keys in the token, and shows what the token says of the CA's."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pkcs11
from asn1crypto import pem

from otahsm.config import CaConfig, KeyConfig, KeyType, TokenConfig
from otahsm.errors import ConfigError, OtahsmError, TokenRefusedError, TokenUnavailableError
from otahsm.pki import (
    SERIAL_RANDOM_BYTES,
    SIGNATURE_ALGORITHMS,
    Issuer,
    RootKind,
    Validity,
    assemble,
    build_root_tbs,
    encode_spki,
    make_serial,
)
from otahsm.token import keys
from otahsm.token.faults import explain
from otahsm.token.pool import PROBE
from otahsm.token.session import logged_in
from otahsm.token.signing import SigningKey

MAX_ROOT_NAME: Final = 64  # ub-common-name (RFC 5280, appendix A.1)
CHECKPOINT_KEY_TYPE: Final = "ec-p256"  # what every token has, and notes can be signed with


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What a token says of the CA key, and what the CA certificate says of the token's key."""

    token: str
    mechanisms: list[str]
    attributes: dict[str, str]
    matches_certificate: bool


def create_root(
    token: TokenConfig,
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
    with _new_key(token, ca, key_type) as (public, private):
        return _self_sign(public, private, key_type, common_name, now, days, kind)


def create_checkpoint_key(token: TokenConfig, wanted: KeyConfig) -> bytes:
    """Generate the key pair that signs checkpoints, on P-256, and have it sign once.

    Returns:
        The public key as SubjectPublicKeyInfo in DER. The private key is only in the token.

    Raises:
        TokenRefusedError: an object with the key's label or id exists, or the token can't make such a key.
        OtahsmError: as `logged_in`. A key that was made before a failure is destroyed again.
    """
    with _new_key(token, wanted, CHECKPOINT_KEY_TYPE) as (public, private):
        public_key = keys.decode_public_key(public)
        SigningKey(private, public_key, SIGNATURE_ALGORITHMS[CHECKPOINT_KEY_TYPE]).sign(PROBE)
        return encode_spki(public_key)


@contextlib.contextmanager
def _new_key(
    token: TokenConfig, wanted: KeyConfig, key_type: KeyType
) -> Iterator[tuple[pkcs11.PublicKey, pkcs11.PrivateKey]]:
    """Log in and generate a key pair; destroy it again if the block fails."""
    with logged_in(token, read_write=True) as session:
        try:
            keys.refuse_existing(session, wanted)
        except pkcs11.PKCS11Error as error:
            raise explain(error, "looking for existing keys") from None
        public, private = keys.generate(session, wanted, key_type)
        try:
            yield public, private
        except (OtahsmError, pkcs11.PKCS11Error) as error:
            for key in (public, private):
                with contextlib.suppress(pkcs11.PKCS11Error):
                    key.destroy()
            if isinstance(error, pkcs11.PKCS11Error):
                raise explain(error, "reading the new public key") from None
            raise


def _self_sign(
    public: pkcs11.PublicKey,
    private: pkcs11.PrivateKey,
    key_type: KeyType,
    common_name: str,
    now: datetime,
    days: int,
    kind: RootKind,
) -> bytes:
    algorithm = SIGNATURE_ALGORITHMS[key_type]
    public_key = keys.decode_public_key(public)
    not_before = now.replace(microsecond=0)
    tbs = build_root_tbs(
        common_name=common_name,
        spki=encode_spki(public_key),
        algorithm=algorithm,
        serial=make_serial(os.urandom(SERIAL_RANDOM_BYTES), int(now.timestamp() * 1000)),
        validity=Validity(not_before, not_before + timedelta(days=days)),
        kind=kind,
    )
    return assemble(tbs, algorithm, SigningKey(private, public_key, algorithm).sign(tbs))


def inspect_key(token: TokenConfig, ca: CaConfig, issuer: Issuer) -> KeyReport:
    """Read back what the token says of the CA key, and make it sign once.

    Raises:
        OtahsmError: as `logged_in`; or the key is not there.
    """
    with logged_in(token) as session:
        try:
            private = keys.find_private_key(session, ca)
            report = KeyReport(
                token=f"{session.token.label} ({session.token.manufacturer_id}, {session.token.model})",
                mechanisms=keys.signing_mechanisms(session.token),
                attributes=keys.attributes_of(private),
                matches_certificate=_signs_for(private, issuer),
            )
        except pkcs11.PKCS11Error as error:
            raise explain(error, "being inspected") from None
    return report


def key_types(token: TokenConfig) -> list[KeyType]:
    """List the types of keys that the token can sign with. Raises as `logged_in`."""
    with logged_in(token) as session:
        return keys.possible_key_types(session.token)


@contextlib.contextmanager
def throwaway_ca(token: TokenConfig, folder: Path, key_type: KeyType, now: datetime) -> Iterator[CaConfig]:
    """Make a CA in the token for as long as the block runs; its key is destroyed at the end.

    What it signs is worth nothing, so that the fleet's CA need not sign to be measured. Its certificate is
    written into `folder`.

    Raises:
        OtahsmError: as `create_root`.
    """
    name = f"{keys.THROWAWAY_LABEL}{secrets.token_hex(8)}"
    ca = CaConfig(certificate=folder / f"{name}.pem", key_label=name, key_id=secrets.token_hex(8))
    root = create_root(token, ca, key_type=key_type, common_name=name, now=now, days=1, kind="root")
    try:
        write_certificate(ca.certificate, root)
        yield ca
    finally:
        with logged_in(token, read_write=True) as session:
            try:
                keys.destroy_throwaway(session, ca)
            except pkcs11.PKCS11Error as error:
                raise explain(error, f"destroying the throwaway key {name}") from None


def _signs_for(private: pkcs11.PrivateKey, issuer: Issuer) -> bool:
    try:
        SigningKey(private, issuer.public_key, issuer.algorithm).sign(PROBE)
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
