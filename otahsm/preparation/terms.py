"""What a preparer is told when it starts: what it issues under each profile."""

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
        profile: what the certificates hold.
        issuer: the CA certificate.
        crls: where the certificates state that their CRL is; None if they are to state none.
    """

    profile: Profile
    issuer: Issuer
    crls: CrlLocation | None


def encode_terms(terms: Mapping[str, Terms]) -> list[bytes]:
    """Turn terms, by the names of profiles, into the parts of a setup message."""
    parts: list[bytes] = []
    for name, (profile, issuer, crls) in terms.items():
        family = issuer.algorithm.family.encode()
        parts += [name.encode(), _PROFILE.dump_json(profile), issuer.certificate, family]
        parts.append(_LOCATION.dump_json(crls))
    return parts


def decode_terms(parts: Sequence[bytes]) -> dict[str, Terms]:
    """Turn the parts of a setup message back into terms."""
    return {
        name.decode(): Terms(
            _PROFILE.validate_json(profile),
            load_issuer(certificate, pss=family == b"rsa-pss"),
            _LOCATION.validate_json(crls),
        )
        for name, profile, certificate, family, crls in zip(*[iter(parts)] * _PARTS, strict=True)
    }
