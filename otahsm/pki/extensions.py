"""Turns a profile's data into X.509 extensions (RFC 5280, section 4.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from asn1crypto import core
from asn1crypto import x509 as asn1_x509

from otahsm.pki.keytypes.spki import subject_key_identifier
from otahsm.pki.profile import ExtendedKeyUsage, KeyUsage, Profile

KEY_USAGE: Final = "2.5.29.15"
BASIC_CONSTRAINTS: Final = "2.5.29.19"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"

_NOT_A_CA: Final = bytes.fromhex("3000")


def extension(name: str, value: core.Asn1Value, *, critical: bool = False) -> asn1_x509.Extension:
    """Build one extension; `name` is asn1crypto's, as in "key_usage"."""
    return asn1_x509.Extension(
        {"extn_id": name, "critical": critical, "extn_value": core.ParsableOctetString(value.dump())}
    )


def key_identifiers(spki: bytes, issuers: bytes) -> list[asn1_x509.Extension]:
    """Build the identifiers of a certificate's key and its issuer's (RFC 5280, 4.2.1.2 and 4.2.1.1)."""
    return [
        extension("key_identifier", core.OctetString(subject_key_identifier(spki))),
        extension("authority_key_identifier", asn1_x509.AuthorityKeyIdentifier({"key_identifier": issuers})),
    ]


def key_usage(usages: frozenset[KeyUsage]) -> asn1_x509.KeyUsage:
    """Build a keyUsage (RFC 5280, section 4.2.1.3)."""
    return asn1_x509.KeyUsage(set(usages))


def extended_key_usage(usages: tuple[ExtendedKeyUsage, ...]) -> asn1_x509.ExtKeyUsageSyntax:
    """Build an extKeyUsage (RFC 5280, section 4.2.1.12)."""
    return asn1_x509.ExtKeyUsageSyntax(list(usages))


def requestable_extensions(profile: Profile) -> dict[str, bytes]:
    """Map the extensions that a CSR may ask for, by dotted OID, to the DER value it must ask for.

    They are what the certificate gets anyway. A CSR that says CA:FALSE says nothing.
    """
    return _requestable(profile.key_usage, profile.extended_key_usage)


@lru_cache(maxsize=64)
def _requestable(
    usages: frozenset[KeyUsage], extended_usages: tuple[ExtendedKeyUsage, ...]
) -> dict[str, bytes]:
    return {
        KEY_USAGE: key_usage(usages).dump(),
        EXTENDED_KEY_USAGE: extended_key_usage(extended_usages).dump(),
        BASIC_CONSTRAINTS: _NOT_A_CA,
    }
