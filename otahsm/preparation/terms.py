"""The setup message of a preparer: what it issues under each profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pydantic import TypeAdapter

from otahsm.pki import CrlLocation, Issuer, Profile, load_issuer

_PROFILE: Final = TypeAdapter(Profile)
_LOCATION: Final = TypeAdapter(CrlLocation | None)
_PARTS: Final = 5


class Terms(NamedTuple):
    """What is issued under one profile.

    Attributes:
        profile: what the certificates contain.
        issuer: the CA certificate.
        crls: the CRL distribution point of the certificates; None for none.
    """

    profile: Profile
    issuer: Issuer
    crls: CrlLocation | None


def encode_terms(terms: Mapping[str, Terms]) -> list[bytes]:
    """Encode terms, by the names of their profiles, as the parts of a setup message."""
    parts: list[bytes] = []
    for name, (profile, issuer, crls) in terms.items():
        family = issuer.algorithm.family.encode()
        parts += [name.encode(), _PROFILE.dump_json(profile), issuer.certificate, family]
        parts.append(_LOCATION.dump_json(crls))
    return parts


def decode_terms(parts: Sequence[bytes]) -> dict[str, Terms]:
    """Decode the parts of a setup message."""
    return {
        name.decode(): Terms(
            _PROFILE.validate_json(profile),
            load_issuer(certificate, pss=family == b"rsa-pss"),
            _LOCATION.validate_json(crls),
        )
        for name, profile, certificate, family, crls in zip(*[iter(parts)] * _PARTS, strict=True)
    }
