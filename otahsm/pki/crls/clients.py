"""Reads the CRLs of operator CAs, by which the daemon refuses clients (RFC 5280, sections 5 and 6.3.3).

A CRL counts only if it is complete for what it is used for: what it says must be understood, and it must list
every revoked certificate of its CA, whatever the reason. All others are refused, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple, TypeVar

from cryptography import x509

from otahsm.errors import ConfigError
from otahsm.pki.chain import find_extension
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.parsing import PARSE_ERRORS

_Value = TypeVar("_Value", bound=x509.ExtensionType)

CLOCK_SKEW: Final = timedelta(minutes=5)  # how far the clock of a CA may be ahead

_PEM: Final = b"-----BEGIN X509 CRL-----"
_END: Final = b"-----END X509 CRL-----"
_OF_LISTS: Final = (x509.CRLNumber, x509.IssuingDistributionPoint, x509.AuthorityKeyIdentifier)
_OF_ENTRIES: Final = (x509.CRLReason, x509.InvalidityDate)


class ClientCrl(NamedTuple):
    """A CRL of an operator CA that was checked.

    Attributes:
        crl: the list.
        issuer: the SHA-256 of the CA's public key (SubjectPublicKeyInfo, in DER), in hexadecimal.
        scope: the distribution point that it is limited to, as text; "" for none.
        only_leaves: whether it lists no certificates of CAs (onlyContainsUserCerts).
        number: its CRL number; None if it has none.
    """

    crl: x509.CertificateRevocationList
    issuer: str
    scope: str
    only_leaves: bool
    number: int | None

    def revokes(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate is listed."""
        return (
            self.crl.issuer == certificate.issuer
            and self.crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        )


def parse_client_crls(
    content: bytes, name: str, authorities: Sequence[x509.Certificate], now: datetime
) -> list[ClientCrl]:
    """Read and check CRLs.

    Args:
        content: one or several in PEM, or one in DER.
        name: the file's, for errors.
        authorities: the operator CAs.
        now: the time, with a time zone.

    Raises:
        ConfigError: one is malformed, is not from one of these CAs, has expired, is from the future, or does
            not list every revoked certificate.
    """
    try:
        crls = list(_load(content))
        return [_check(crl, name, authorities, now) for crl in crls]
    except PARSE_ERRORS:
        raise ConfigError(f"{name} is not a CRL", hint="Fetch it again from the operator CA.") from None


def gaps(authorities: Sequence[x509.Certificate], crls: Sequence[ClientCrl]) -> list[str]:
    """Return what these CRLs can't say of the certificates of these CAs, one sentence each."""
    found = []
    for authority in authorities:
        own = [crl for crl in crls if crl.issuer == key_digest(authority)]
        name = authority.subject.rfc4514_string()
        if not own:
            found.append(f"there is no CRL of {name}: certificates that it has revoked are accepted")
        elif all(crl.scope for crl in own):
            found.append(f"the CRLs of {name} are of single distribution points, and others may be missing")
        elif all(crl.only_leaves for crl in own):
            found.append(f"the CRLs of {name} list no CAs: a CA below it that it has revoked is accepted")
    return found


def key_digest(authority: x509.Certificate) -> str:
    """Return the SHA-256 of a CA's public key, as `ClientCrl.issuer` has it."""
    return sha256(encode_spki(authority.public_key())).hexdigest()


def _load(content: bytes) -> Iterator[x509.CertificateRevocationList]:
    if _PEM not in content:
        yield x509.load_der_x509_crl(content)
        return
    *parts, rest = content.split(_END)
    if _PEM in rest:
        raise ValueError("the last one is cut off")
    for part in parts:
        yield x509.load_pem_x509_crl(part[part.index(_PEM) :] + _END)


def _check(
    crl: x509.CertificateRevocationList,
    name: str,
    authorities: Sequence[x509.Certificate],
    now: datetime,
) -> ClientCrl:
    authority = next((item for item in authorities if _signed(crl, item)), None)
    if authority is None:
        raise ConfigError(
            f"the CRL {name} is not from a CA in [tls] client_ca",
            hint="For a CRL of an intermediate CA, client_ca must also contain that CA's certificate.",
        )
    usage = find_extension(authority, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        raise ConfigError(
            f"the CRL {name} is from {authority.subject.rfc4514_string()}, whose keyUsage lacks cRLSign",
            hint="Have the operator CA's certificate reissued with cRLSign.",
        )
    if crl.next_update_utc is not None and crl.next_update_utc <= now:
        raise ConfigError(
            f"the CRL {name} has expired: its nextUpdate was {crl.next_update_utc:%Y-%m-%d %H:%M:%S} UTC",
            hint="Fetch a new one from the operator CA. If it expires while the daemon runs, it still holds.",
        )
    if crl.last_update_utc > now + CLOCK_SKEW:
        raise ConfigError(
            f"the CRL {name} is from the future:"
            f" its thisUpdate is {crl.last_update_utc:%Y-%m-%d %H:%M:%S} UTC",
            hint="Check the clocks of this machine and of the operator CA.",
        )
    if problem := _problem(crl):
        raise ConfigError(
            f"the CRL {name} {problem}",
            hint="Have the operator CA make a complete CRL: of all its certificates, for all reasons.",
        )
    point = _find(crl, x509.IssuingDistributionPoint)
    number = _find(crl, x509.CRLNumber)
    return ClientCrl(
        crl,
        key_digest(authority),
        _scope(point) if point else "",
        bool(point and point.only_contains_user_certs),
        number.crl_number if number else None,
    )


def _problem(crl: x509.CertificateRevocationList) -> str:
    """Return why a list does not say everything, or more than is understood; "" if all is well."""
    for extension in crl.extensions:
        match extension.value:
            case x509.DeltaCRLIndicator():
                return "is a delta CRL: it only lists what has changed"
            case x509.IssuingDistributionPoint() as point:
                if problem := _limit(point):
                    return problem
        if extension.critical and not isinstance(extension.value, _OF_LISTS):
            return f"has a critical extension that otahsm does not know: {extension.oid.dotted_string}"
    for entry in crl:
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CertificateIssuer):
                return "is an indirect CRL: it lists certificates of other CAs"
            if extension.critical and not isinstance(extension.value, _OF_ENTRIES):
                return (
                    f"has an entry, {entry.serial_number:x}, with a critical extension that otahsm does not"
                    f" know: {extension.oid.dotted_string}"
                )
    return ""


def _limit(point: x509.IssuingDistributionPoint) -> str:
    if point.only_contains_ca_certs:
        return "only lists certificates of CAs"
    if point.only_contains_attribute_certs:
        return "only lists attribute certificates"
    if point.only_some_reasons:
        return "only lists certificates that were revoked for some reasons (onlySomeReasons)"
    if point.indirect_crl:
        return "is an indirect CRL: it lists certificates of other CAs"
    return ""


def _scope(point: x509.IssuingDistributionPoint) -> str:
    if point.full_name:
        return " ".join(str(name.value) for name in point.full_name)
    return point.relative_name.rfc4514_string() if point.relative_name else ""


def _find(crl: x509.CertificateRevocationList, kind: type[_Value]) -> _Value | None:
    try:
        return crl.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if crl.issuer != authority.subject:
        return False
    return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type] # checked by it
