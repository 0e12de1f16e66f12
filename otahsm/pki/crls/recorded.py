"""Compares a CRL with what was recorded of it: its scope, number, times and entries, and who signed it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509

from otahsm.errors import RequestRefusedError
from otahsm.pki.crls.distribution import AUTHORITIES, COMPLETE
from otahsm.pki.crls.reading import check_crl_signature
from otahsm.pki.der import SEQUENCE, children
from otahsm.pki.issuer import Issuer
from otahsm.pki.parsing import PARSE_ERRORS, url_in

_MADE_HERE: Final = (x509.AuthorityKeyIdentifier, x509.CRLNumber, x509.IssuingDistributionPoint)
_REVOKED: Final = 5  # the place of revokedCertificates, if there are any (RFC 5280, section 5.1)


class RecordedCrl(NamedTuple):
    """What was recorded of a CRL. A database may hold values of any type, which then differ.

    Attributes:
        key_identifier: that of its CA, in hexadecimal.
        scope: the URL of a shard, or one of the names in `otahsm.pki.crls.distribution`.
        number: the CRL number.
        this_update, next_update: seconds since the Unix epoch.
        entries: how many it has.
    """

    key_identifier: object
    scope: object
    number: object
    this_update: object
    next_update: object
    entries: object


_NAMES: Final = (
    "authority key identifier",
    "scope",
    "number",
    "thisUpdate",
    "nextUpdate",
    "number of entries",
)


def differences(der: object, recorded: RecordedCrl, issuer: Issuer | None) -> list[str]:
    """Return how a CRL differs from what was recorded of it, in words; nothing if it does not.

    Args:
        der: what must be exactly one CRL, in DER.
        recorded: what it is compared with.
        issuer: its CA, whose name and signature it must have; None if the CA is not known.
    """
    try:
        if not isinstance(der, bytes):
            raise TypeError("not octets")
        said = _read(x509.load_der_x509_crl(der))
    except PARSE_ERRORS:
        return ["it is not exactly one CRL in DER, as otahsm makes them"]
    found = [
        f"its {name} is {ours!a:.300}, but {theirs!a:.300} was recorded"
        for name, ours, theirs in zip(_NAMES, said, recorded, strict=True)
        if ours != theirs
    ]
    if issuer is not None:
        try:
            check_crl_signature(der, issuer)
        except RequestRefusedError as error:
            found.append(error.message)
    return found


def entries_of(der: bytes) -> Iterator[bytes]:
    """Yield the entries of a CRL that can be parsed, each in DER."""
    tbs, *_ = children(der)
    fields = list(children(tbs))
    if len(fields) > _REVOKED and fields[_REVOKED][0] == SEQUENCE:
        yield from children(fields[_REVOKED])


def _read(crl: x509.CertificateRevocationList) -> RecordedCrl:
    """Return what a CRL says. Raises ValueError: it has extensions that otahsm's don't have, or lacks one."""
    values = {type(extension.value): extension.value for extension in crl.extensions}
    identifier, number = values.get(x509.AuthorityKeyIdentifier), values.get(x509.CRLNumber)
    point = values.get(x509.IssuingDistributionPoint)
    if not set(values) <= set(_MADE_HERE) or not isinstance(identifier, x509.AuthorityKeyIdentifier):
        raise ValueError("other extensions than those of otahsm's CRLs")
    return RecordedCrl(
        (identifier.key_identifier or b"").hex(),
        _scope(point if isinstance(point, x509.IssuingDistributionPoint) else None),
        number.crl_number if isinstance(number, x509.CRLNumber) else None,
        _seconds(crl.last_update_utc),
        _seconds(crl.next_update_utc),
        len(crl),
    )


def _scope(point: x509.IssuingDistributionPoint | None) -> str:
    """Return the scope that a CRL states. Raises ValueError: none of otahsm's."""
    if point is None:
        return COMPLETE
    url = url_in(point)
    expected = x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier(url)] if url else None,
        relative_name=None,
        only_contains_user_certs=bool(url),
        only_contains_ca_certs=not url,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
    if point != expected:
        raise ValueError("another issuing distribution point than those of otahsm's CRLs")
    return url or AUTHORITIES


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
