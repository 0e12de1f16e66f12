"""Certificate revocation lists, version 2 (RFC 5280, section 5): builds the TBSCertList.

Everything but the entries is built by asn1crypto, once. The entries are written octet by octet: as objects,
those of a fleet with 50,000 revocations would take many seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import Final, NamedTuple

from asn1crypto import algos, core
from asn1crypto import crl as asn1_crl
from asn1crypto import x509 as asn1_x509

from otahsm.pki.certificate import FIRST_GENERALIZED_YEAR, asn1_time
from otahsm.pki.crls.distribution import issuing_distribution_point
from otahsm.pki.der import GENERALIZED_TIME, SEQUENCE, UTC_TIME, children, integer, tlv
from otahsm.pki.issuer import Issuer

_NUMBER_BITS: Final = 159  # positive, in at most 20 octets (RFC 5280, section 5.2.3)
_FIRST_UTC_YEAR: Final = 1950
_UTC_OFFSET: Final = timedelta(0)


class Reason(StrEnum):
    """Why a certificate is revoked (RFC 5280, section 5.3.1).

    Two of the RFC's reasons are not offered. `certificateHold` is a revocation that may be taken back: a
    stolen device could come back by an operator's slip, and no later CRL tells that it was ever held. Here a
    revocation is final. `removeFromCRL` takes a hold back, and only in delta CRLs, which are not made.
    """

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key_compromise"
    CA_COMPROMISE = "ca_compromise"
    AFFILIATION_CHANGED = "affiliation_changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation_of_operation"
    PRIVILEGE_WITHDRAWN = "privilege_withdrawn"
    AA_COMPROMISE = "aa_compromise"

    @property
    def code(self) -> int:
        """The reason's number, in CRLs and OCSP."""
        return _CODES[self]


_CODES: Final = {
    Reason.UNSPECIFIED: 0,
    Reason.KEY_COMPROMISE: 1,
    Reason.CA_COMPROMISE: 2,
    Reason.AFFILIATION_CHANGED: 3,
    Reason.SUPERSEDED: 4,
    Reason.CESSATION_OF_OPERATION: 5,
    Reason.PRIVILEGE_WITHDRAWN: 9,
    Reason.AA_COMPROMISE: 10,
}


class RevokedCertificate(NamedTuple):
    """One entry: the serial number, and since when (UTC, whole seconds) and why it is revoked."""

    serial: int
    revoked_at: datetime
    reason: Reason


def build_tbs_crl(
    issuer: Issuer,
    revoked: Iterable[RevokedCertificate],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    distribution_point: str | None = None,
    only_authorities: bool = False,
) -> bytes:
    """Build a TBSCertList in DER (RFC 5280, section 5.1.2), which the CA's key is to sign.

    Without the last two arguments it is complete: it covers every certificate of the issuer, and a verifier
    needs no other. A shard covers the devices whose certificates state its URL. A verifier that checks whole
    chains, as nginx does, wants a CRL for the root too, and takes no shard for it: hence `only_authorities`.

    Args:
        issuer: the CA certificate; it must be allowed to sign CRLs, see `check_signs_crls`.
        revoked: the entries, in any order; those of the shard only, if it is one's CRL.
        number: the CRL number, more than in any earlier CRL of the same scope; below 2^159.
        this_update: when it is made; UTC, whole seconds.
        next_update: when the next one comes at the latest, in the same form.
        distribution_point: the URL of the shard, as the certificates state it.
        only_authorities: whether it holds CA certificates, and no device.

    Raises:
        ValueError: a serial number comes twice, a time is not in the form, `next_update` is not after
            `this_update`, the number is out of range, or both
            `distribution_point` and `only_authorities` are set.
    """
    if not this_update < next_update:
        raise ValueError(f"a CRL of {this_update} can't be followed by the next at {next_update}")
    if not 0 <= number < 1 << _NUMBER_BITS:
        raise ValueError(f"{number} is no CRL number: it must fit into 20 octets")
    empty = asn1_crl.TbsCertList(
        {
            "version": "v2",
            "signature": algos.SignedDigestAlgorithm.load(issuer.algorithm.identifier),
            "issuer": asn1_x509.Name.load(issuer.subject),
            "this_update": asn1_time(_checked(this_update)),
            "next_update": asn1_time(_checked(next_update)),
            "crl_extensions": [
                _extension(
                    "authority_key_identifier",
                    asn1_x509.AuthorityKeyIdentifier({"key_identifier": issuer.key_identifier}),
                ),
                _extension("crl_number", core.Integer(number)),
                *_scope(distribution_point, only_authorities=only_authorities),
            ],
        }
    )
    *until_entries, extensions = children(empty.dump())
    entries = _encode_entries(revoked)
    if entries:  # "MUST be absent" without any (RFC 5280, section 5.1.2.6)
        until_entries.append(tlv(SEQUENCE, entries))
    return tlv(SEQUENCE, *until_entries, extensions)


def _encode_entries(revoked: Iterable[RevokedCertificate]) -> bytes:
    """Encode the entries, sorted by serial number: the same certificates make the same CRL."""
    entries, last = bytearray(), 0
    for entry in sorted(revoked, key=attrgetter("serial")):
        if entry.serial <= last:
            raise ValueError(f"the serial number {entry.serial:#x} comes twice, or is not positive")
        last = entry.serial
        entries += encode_entry(entry)
    return bytes(entries)


def encode_entry(entry: RevokedCertificate) -> bytes:
    """Encode one of revokedCertificates in DER. Raises ValueError: its time is not in the form."""
    return tlv(SEQUENCE, integer(entry.serial), _encode_time(entry.revoked_at), _REASONS[entry.reason])


def _encode_time(moment: datetime) -> bytes:
    """Encode a time as `asn1_time` does (RFC 5280, section 5.1.2.6 refers to 5.1.2.4)."""
    year, month, day, hour, minute, second, *_ = _checked(moment).timetuple()
    rest = b"%02d%02d%02d%02d%02dZ" % (month, day, hour, minute, second)
    if year < FIRST_GENERALIZED_YEAR:
        return tlv(UTC_TIME, b"%02d" % (year % 100), rest)
    return tlv(GENERALIZED_TIME, b"%04d" % year, rest)


def _checked(moment: datetime) -> datetime:
    """Return a time that X.509 can hold. Raises ValueError for any other."""
    if moment.utcoffset() != _UTC_OFFSET or moment.microsecond or moment.year < _FIRST_UTC_YEAR:
        raise ValueError(f"{moment} is not in UTC and whole seconds, or is before {_FIRST_UTC_YEAR}")
    return moment


def _scope(url: str | None, *, only_authorities: bool) -> list[asn1_crl.TBSCertListExtension]:
    """Build what says that a CRL is not complete (RFC 5280, section 5.2.5: it must be critical)."""
    if url is not None and only_authorities:
        raise ValueError("a CRL of a shard holds no CA certificates")
    if url is not None:
        point = issuing_distribution_point(url)
    elif only_authorities:
        point = asn1_crl.IssuingDistributionPoint({"only_contains_ca_certs": True})
    else:
        return []
    return [_extension("issuing_distribution_point", point, critical=True)]


def _extension(name: str, value: core.Asn1Value, *, critical: bool = False) -> asn1_crl.TBSCertListExtension:
    return asn1_crl.TBSCertListExtension(
        {"extn_id": name, "critical": critical, "extn_value": core.ParsableOctetString(value.dump())}
    )


def _encode_reason(reason: Reason) -> bytes:
    """Encode crlEntryExtensions: nothing for `unspecified` ("SHOULD be absent", RFC 5280, section 5.3.1)."""
    if reason is Reason.UNSPECIFIED:
        return b""
    value = core.ParsableOctetString(asn1_crl.CRLReason(reason.code).dump())
    encoded: bytes = asn1_crl.CRLEntryExtensions([{"extn_id": "crl_reason", "extn_value": value}]).dump()
    return encoded


_REASONS: Final = {reason: _encode_reason(reason) for reason in Reason}
