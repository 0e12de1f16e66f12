"""Reads certificate revocation lists (RFC 5280, section 5): what one says, and who signed it."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import assemble
from otahsm.pki.crls.building import Reason, RevokedCertificate
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import signature_algorithm, signature_is_valid
from otahsm.pki.parsing import PARSE_ERRORS, url_in

_REASONS: Final = {x509.ReasonFlags[reason.value]: reason for reason in Reason}


class CrlDescription(NamedTuple):
    """What a CRL says; None where it says nothing.

    Times are in UTC. `only_devices` and `only_authorities` are the issuing distribution point's
    onlyContainsUserCerts and onlyContainsCACerts; `revoked` counts the entries.
    """

    issuer: str
    number: int | None
    this_update: datetime
    next_update: datetime | None
    distribution_point: str | None
    only_devices: bool
    only_authorities: bool
    key_identifier: bytes | None
    revoked: int


def describe_crl(crl: bytes, name: str = "this") -> CrlDescription:
    """Return what a CRL contains, without checking its signature: see `check_crl_signature`.

    Args:
        crl: DER, or PEM with one CRL.
        name: the file's, for errors.

    Raises:
        RequestRefusedError: it is no CRL.
    """
    try:
        return _describe(_load(crl))
    except PARSE_ERRORS:
        raise _refused(f"{name} is not a CRL") from None


def entries_of(crl: bytes) -> list[RevokedCertificate]:
    """Return the entries of a CRL, in DER or PEM.

    Raises:
        RequestRefusedError: it is no CRL, or has an entry that we don't make.
    """
    try:
        return [
            RevokedCertificate(entry.serial_number, entry.revocation_date_utc, _reason(entry))
            for entry in _load(crl)
        ]
    except (*PARSE_ERRORS, KeyError):
        raise _refused("this is not a CRL, or not one of otahsm's") from None


def check_crl_signature(crl: bytes, issuer: Issuer) -> None:
    """Check that a CRL, in DER or PEM, is this issuer's: its name, and its key's signature.

    Raises:
        RequestRefusedError: it is not, or it is no CRL.
    """
    try:
        loaded = _load(crl)
        name, tbs, signature = loaded.issuer.public_bytes(), loaded.tbs_certlist_bytes, loaded.signature
        whole = loaded.public_bytes(Encoding.DER)
        possible = (signature_algorithm(issuer.public_key, pss=pss) for pss in (False, True))
        used = next((way for way in possible if assemble(tbs, way, signature) == whole), None)
    except PARSE_ERRORS:
        raise _refused("this is not a CRL") from None
    if name != issuer.subject:
        raise _refused(f"the CRL's issuer is {loaded.issuer.rfc4514_string()}, not {issuer.subject_text}")
    if used is None or not signature_is_valid(issuer.public_key, used, signature, tbs):
        raise _refused(f"the CRL is not signed by {issuer.subject_text}")


def _load(crl: bytes) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(crl) if crl.startswith(b"-----") else x509.load_der_x509_crl(crl)


def _describe(crl: x509.CertificateRevocationList) -> CrlDescription:
    number = point = authority = None
    for extension in crl.extensions:
        match extension.value:
            case x509.CRLNumber() as value:
                number = value.crl_number
            case x509.IssuingDistributionPoint() as value:
                point = value
            case x509.AuthorityKeyIdentifier() as value:
                authority = value
    return CrlDescription(
        issuer=crl.issuer.rfc4514_string(),
        number=number,
        this_update=crl.last_update_utc,
        next_update=crl.next_update_utc,
        distribution_point=url_in(point) if point else None,
        only_devices=bool(point and point.only_contains_user_certs),
        only_authorities=bool(point and point.only_contains_ca_certs),
        key_identifier=authority.key_identifier if authority else None,
        revoked=len(crl),
    )


def _reason(entry: x509.RevokedCertificate) -> Reason:
    """Return why a certificate is revoked. Raises KeyError for a reason that is not offered."""
    for extension in entry.extensions:
        if isinstance(extension.value, x509.CRLReason):
            return _REASONS[extension.value.reason]
    return Reason.UNSPECIFIED


def _refused(message: str) -> RequestRefusedError:
    return RequestRefusedError("file", message, hint="Name a file with one CRL, in DER or PEM.")
