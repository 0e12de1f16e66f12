"""The setup message of a preparer: what it issues under each profile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from otahsm.patterns import compile_pattern
from otahsm.pki.chain import load_issuer
from otahsm.pki.crls.distribution import CrlLocation
from otahsm.pki.issuer import Issuer
from otahsm.pki.profile import Profile
from otahsm.pki.subject import SubjectPart
from otahsm.templates import Template

_PARTS: Final = 5
_WINDOWS: Final = ("validity", "backdate", "renewal", "rekey")
_SETS: Final = ("key_types", "key_usage")


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
        parts += [name.encode(), _encode_profile(profile), issuer.certificate, family]
        parts.append(json.dumps(crls).encode())
    return parts


def decode_terms(parts: Sequence[bytes]) -> dict[str, Terms]:
    """Decode the parts of a setup message."""
    return {
        name.decode(): Terms(
            _decode_profile(json.loads(profile)),
            load_issuer(certificate, pss=family == b"rsa-pss"),
            CrlLocation(*location) if (location := json.loads(crls)) else None,
        )
        for name, profile, certificate, family, crls in zip(*[iter(parts)] * _PARTS, strict=True)
    }


def _encode_profile(profile: Profile) -> bytes:
    fields: dict[str, Any] = {name: getattr(profile, name) // timedelta.resolution for name in _WINDOWS}
    fields |= {name: list(getattr(profile, name)) for name in _SETS}
    fields["device_id"] = profile.device_id.pattern
    fields["extended_key_usage"] = profile.extended_key_usage
    fields["csr_extras"] = profile.csr_extras
    fields["subject"] = [(kind, value.text) for kind, value in profile.subject]
    return json.dumps(fields).encode()


def _decode_profile(fields: dict[str, Any]) -> Profile:
    fields |= {name: fields[name] * timedelta.resolution for name in _WINDOWS}
    fields |= {name: frozenset(fields[name]) for name in _SETS}
    fields["device_id"] = compile_pattern(fields["device_id"])
    fields["extended_key_usage"] = tuple(fields["extended_key_usage"])
    fields["subject"] = tuple(SubjectPart(kind, Template.parse(text)) for kind, text in fields["subject"])
    return Profile(**fields)
