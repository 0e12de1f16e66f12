"""A CA in memory: its key is a plain one, everything else is otahsm's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import get_args

from otahsm.config import AuthorityConfig
from otahsm.issuance.authorities import Authorities, Authority
from otahsm.pkcs11_names import Pkcs11Uri
from otahsm.pki.certificate import Binding, Validity, assemble, build_tbs
from otahsm.pki.chain import Chain, load_issuer
from otahsm.pki.crls.building import RevokedCertificate, build_tbs_crl
from otahsm.pki.csr import check_csr
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import SIGNATURE_ALGORITHMS, KeyType, sign
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.profile import Profile
from otahsm.pki.root import RootKind, build_root_tbs
from otahsm.token.setup import AuthorityMandate, Mandate, ProfileMandate

from support.attacks.forging import key_of

KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)
SMALL_KEY_TYPES: tuple[KeyType, ...] = ("ec-p256", "ec-p384", "rsa-2048", "ed25519")
CA_LIFE = Validity(datetime(2020, 1, 1, tzinfo=UTC), datetime(2090, 12, 31, 23, 59, 59, tzinfo=UTC))
CRL_MADE = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
CA_NAME = "test fleet root"
SERIAL = 0x123456789ABCDEF


@cache
def root_of(
    key_type: KeyType, kind: RootKind = "root", validity: Validity = CA_LIFE, path_length: int = 0
) -> bytes:
    """Make a self-signed root, in DER."""
    key, algorithm = key_of(key_type), SIGNATURE_ALGORITHMS[key_type]
    tbs = build_root_tbs(
        common_name=CA_NAME,
        spki=encode_spki(key.public_key()),
        algorithm=algorithm,
        serial=SERIAL,
        validity=validity,
        kind=kind,
        path_length=path_length,
    )
    return assemble(tbs, algorithm, sign(key, tbs))


@cache
def issuer_of(key_type: KeyType) -> Issuer:
    return load_issuer(root_of(key_type))


def leaf(
    device_id: str,
    key_type: KeyType,
    *,
    ca: KeyType = "ec-p256",
    serial: int = SERIAL,
    validity: Validity = CA_LIFE,
    profile: Profile | None = None,
    crl_url: str | None = None,
) -> bytes:
    """Issue a device certificate, in DER."""
    issuer = issuer_of(ca)
    csr = Binding(device_id, encode_spki(key_of(key_type).public_key()))
    tbs = build_tbs(csr, profile or Profile(), issuer, serial, validity, crl_url)
    return assemble(tbs, issuer.algorithm, sign(key_of(ca), tbs))


def certificate_for(csr: bytes, device_id: str, *, ca: KeyType = "ec-p256") -> bytes:
    """Issue a certificate for a CSR, in DER."""
    issuer, profile = issuer_of(ca), Profile()
    tbs = build_tbs(check_csr(csr, profile, device_id), profile, issuer, SERIAL, CA_LIFE)
    return assemble(tbs, issuer.algorithm, sign(key_of(ca), tbs))


def crl(
    revoked: Iterable[RevokedCertificate] = (),
    *,
    ca: KeyType = "ec-p256",
    number: int = 1,
    made: datetime = CRL_MADE,
    life: timedelta = timedelta(days=7),
    url: str | None = None,
    only_authorities: bool = False,
) -> bytes:
    """Sign a CRL, in DER."""
    issuer = issuer_of(ca)
    tbs = build_tbs_crl(
        issuer,
        revoked,
        number=number,
        this_update=made,
        next_update=made + life,
        distribution_point=url,
        only_authorities=only_authorities,
    )
    return assemble(tbs, issuer.algorithm, sign(key_of(ca), tbs))


def authorities_of(key_type: KeyType, profiles: Iterable[str]) -> Authorities:
    """Return what a daemon with one CA has."""
    config = AuthorityConfig(key=Pkcs11Uri(object="fleet-root"), certificate=Path("/root.pem"))
    chain = Chain(issuer_of(key_type), (), root_of(key_type))
    return Authorities({"": Authority("", config, chain)}, dict.fromkeys(profiles, ""))


def mandate_of(profiles: Mapping[str, Profile], folder: Path = Path("/nowhere")) -> Mandate:
    """Return what the signers of a CA with a P-256 key sign."""
    access = AuthorityConfig(key=Pkcs11Uri(object="fleet-root"), certificate=Path("/root.pem"))
    authority = AuthorityMandate(access, issuer_of("ec-p256"), crl_seconds=7 * 86400)
    allowed = {name: ProfileMandate("", profile, None) for name, profile in profiles.items()}
    return Mandate({"": authority}, allowed, None, folder)
