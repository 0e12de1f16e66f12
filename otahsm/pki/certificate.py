"""Builds certificates (RFC 5280): the TBS of a device, and the finished certificate around a signature."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from asn1crypto import algos, keys
from asn1crypto import x509 as asn1_x509

from otahsm.errors import AuthorityUnusableError
from otahsm.pki.crls.distribution import crl_distribution_points
from otahsm.pki.der import BIT_STRING, SEQUENCE, tlv
from otahsm.pki.extensions import extended_key_usage, extension, key_identifiers, key_usage
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes.family import SignatureAlgorithm
from otahsm.pki.names import subject_of
from otahsm.pki.profile import Profile

FIRST_GENERALIZED_YEAR: Final = 2050


class Binding(NamedTuple):
    """What a certificate takes from a CSR, and nothing else: a device id, and the public key bound to it.

    Attributes:
        device_id: the device's id.
        spki: its key, a SubjectPublicKeyInfo in DER.
    """

    device_id: str
    spki: bytes


class Validity(NamedTuple):
    """The first and last second at which a certificate is valid, in UTC and whole seconds."""

    not_before: datetime
    not_after: datetime


def validity_at(now: datetime, profile: Profile, issuer: Issuer) -> Validity:
    """Return the validity of a certificate issued `now`: within its issuer's own validity (I9).

    Raises:
        AuthorityUnusableError: the issuer is not valid now.
    """
    now = now.astimezone(UTC).replace(microsecond=0)
    if not issuer.not_before <= now <= issuer.not_after:
        raise AuthorityUnusableError(
            f"the CA certificate {issuer.subject_text} is valid from {issuer.not_before:%Y-%m-%d %H:%M:%S}"
            f" to {issuer.not_after:%Y-%m-%d %H:%M:%S} UTC, but it is {now:%Y-%m-%d %H:%M:%S} now",
            hint="Check the clock of the daemon's machine. If it is right, put a new CA into service.",
        )
    return Validity(
        max(now - profile.backdate, issuer.not_before),
        min(now + profile.validity, issuer.not_after),
    )


def validity_of(not_before: int, not_after: int) -> Validity:
    """Make a validity of two times in seconds since the Unix epoch."""
    return Validity(datetime.fromtimestamp(not_before, UTC), datetime.fromtimestamp(not_after, UTC))


def build_tbs(
    binding: Binding,
    profile: Profile,
    issuer: Issuer,
    serial: int,
    validity: Validity,
    crl_url: str | None = None,
    others: bytes = b"",
) -> bytes:
    """Build a device's TBSCertificate in DER (RFC 5280, section 4.1.2), field by field.

    This says what a device's certificate holds. It is slow: see `TbsTemplate`.

    Args:
        binding: the device's id and key.
        profile: what the certificate holds besides.
        issuer: the CA certificate.
        serial: the serial number.
        validity: when it begins and ends.
        crl_url: where the CRL of its shard will be; without one it states no cRLDistributionPoints.
        others: what follows the common name in the subject (see `SubjectTemplate`).
    """
    return encode_tbs(
        subject=subject_of(binding.device_id, others=others),
        spki=binding.spki,
        issuer=issuer.subject,
        algorithm=issuer.algorithm,
        serial=serial,
        validity=validity,
        extensions=[
            extension("key_usage", key_usage(profile.key_usage), critical=True),
            extension("extended_key_usage", extended_key_usage(profile.extended_key_usage), critical=True),
            *key_identifiers(binding.spki, issuer.key_identifier),
            *([extension("crl_distribution_points", crl_distribution_points([crl_url]))] if crl_url else []),
        ],
    )


def encode_tbs(
    *,
    subject: bytes,
    spki: bytes,
    issuer: bytes,
    algorithm: SignatureAlgorithm,
    serial: int,
    validity: Validity,
    extensions: list[asn1_x509.Extension],
) -> bytes:
    """Encode a v3 TBSCertificate; `subject`, `spki` and `issuer` are DER."""
    tbs = asn1_x509.TbsCertificate(
        {
            "version": "v3",
            "serial_number": serial,
            "signature": algos.SignedDigestAlgorithm.load(algorithm.identifier),
            "issuer": asn1_x509.Name.load(issuer),
            "validity": _validity(validity),
            "subject": asn1_x509.Name.load(subject),
            "subject_public_key_info": keys.PublicKeyInfo.load(spki),
            "extensions": extensions,
        }
    )
    encoded: bytes = tbs.dump()
    return encoded


def assemble(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """Join a TBS, its algorithm and its signature into a DER Certificate (RFC 5280, section 4.1).

    A CertificateList (section 5.1) and a CSR (RFC 2986, section 4.2) have the same shape.
    """
    return tlv(SEQUENCE, tbs, algorithm.identifier, tlv(BIT_STRING, b"\0", signature))


def encode_validity(validity: Validity) -> bytes:
    """Encode a Validity in DER (RFC 5280, section 4.1.2.5)."""
    encoded: bytes = _validity(validity).dump()
    return encoded


def _validity(validity: Validity) -> asn1_x509.Validity:
    return asn1_x509.Validity(
        {"not_before": asn1_time(validity.not_before), "not_after": asn1_time(validity.not_after)}
    )


def asn1_time(moment: datetime) -> asn1_x509.Time:
    """Encode a time: UTCTime through 2049, GeneralizedTime from 2050 (RFC 5280, section 4.1.2.5)."""
    form = "utc_time" if moment.year < FIRST_GENERALIZED_YEAR else "general_time"
    return asn1_x509.Time({form: moment})
