"""Compares a certificate with what its row in the ledger says, and with the CA that must have signed it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from cryptography import x509

from otahsm.pki.certificate import assemble, encode_validity, validity_of
from otahsm.pki.der import children, contents, integer
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import signature_algorithm, signature_is_valid
from otahsm.pki.keytypes.spki import subject_key_identifier
from otahsm.pki.names import subject_of
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.pki.serial import SERIAL_BYTES, SerialNumber

_FIELDS: Final = 8  # of a v3 TBSCertificate with extensions (RFC 5280, section 4.1)
_MANY: Final = 4096  # different extensions; there are as many as profiles and URLs of CRLs
_BAD_TIMES: Final = (TypeError, ValueError, OverflowError, OSError)


class RecordedCertificate(NamedTuple):
    """A certificate and its rows. SQLite stores values of any type, which then differ.

    `crl_url` is the one that its revocation names, if it is revoked.
    """

    intent_id: Any
    der: Any
    serial: Any
    device_id: Any
    spki_sha256: Any
    tbs_sha256: Any
    issuer_key_id: Any
    not_before: Any
    not_after: Any
    void_reason: Any
    is_revoked: Any
    crl_url: Any

    @property
    def name(self) -> str:
        """Its serial number and device, for messages."""
        serial = SerialNumber.from_key(self.serial).hex() if isinstance(self.serial, bytes) else "unknown"
        return f"serial number {serial}, device {self.device_id!a:.200}"


class _Parts(NamedTuple):
    """The parts of a certificate, in DER, and what its extensions say of the CA and where its CRL is."""

    tbs: bytes
    fields: tuple[bytes, ...]
    algorithm: bytes
    bits: bytes
    issuer_key_id: bytes | None
    urls: tuple[str, ...]
    identifies_key: bool


class Compared(NamedTuple):
    """The result for one certificate.

    Attributes:
        problems: how it differs, in words; empty if it does not.
        urls: the URLs of CRLs that it states.
        is_verified: whether it has the signature of its CA.
    """

    problems: Sequence[str]
    urls: Sequence[str] = ()
    is_verified: bool = False


class CertificateComparison:
    """Compares certificates, one after the other.

    Octets are compared with those that the row would give: that is cheap, and what does not differ needs no
    words. Only the extensions are parsed, once for all certificates that differ in their key alone.

    Args:
        issuers: the CAs that are configured.
    """

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._authorities = {issuer.key_identifier: _Authority(issuer) for issuer in issuers}
        self._extensions: dict[tuple[bytes, bytes], tuple[bytes | None, tuple[str, ...]]] = {}

    def compare(self, row: RecordedCertificate) -> Compared:
        """Compare a certificate with its row and its CA."""
        if row.serial is None:
            return Compared(["it has no intent"])
        try:
            parts = self._parse(row.der)
        except PARSE_ERRORS:
            return Compared(["it is not exactly one certificate in DER, as otahsm issues them"])
        problems = list(_differences(row, parts))
        authority = self._authorities.get(row.issuer_key_id)
        if authority is None:
            return Compared(problems, parts.urls)
        if parts.fields[3] != authority.issuer.subject:
            problems.append(f"its issuer is not {authority.issuer.subject_text}")
        is_signed = authority.has_signed(row.der, parts)
        if not is_signed:
            problems.append(f"it is not signed by {authority.issuer.subject_text}")
        return Compared(problems, parts.urls, is_signed)

    def _parse(self, der: Any) -> _Parts:
        """Take a certificate apart. Raises as `PARSE_ERRORS` says."""
        certificate = x509.load_der_x509_certificate(der)  # strictly, and nothing behind it
        tbs, algorithm, bits = children(der)
        fields = tuple(children(tbs))
        if len(fields) != _FIELDS:
            raise ValueError("it has other fields than otahsm's")
        identifier = subject_key_identifier(fields[-2])
        before, found, after = fields[-1].partition(identifier)
        extensions = self._extensions.get((before, after)) if found else None
        if extensions is None:
            extensions = _read_extensions(certificate)
            if found and len(self._extensions) < _MANY:
                self._extensions[before, after] = extensions
        return _Parts(tbs, fields, algorithm, bits, *extensions, identifies_key=bool(found))


class _Authority:
    """A CA, and how its key may sign: one of RSA in two ways, as was configured when it did."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        ways = (signature_algorithm(issuer.public_key, pss=pss) for pss in (False, True))
        self._ways = {way.identifier: way for way in ways}

    def has_signed(self, whole: bytes, parts: _Parts) -> bool:
        """Return whether a certificate is exactly these parts, and the signature is this CA's."""
        way, signature = self._ways.get(parts.algorithm), contents(parts.bits)[1:]
        if way is None or parts.fields[2] != parts.algorithm:
            return False
        if assemble(parts.tbs, way, signature) != whole:
            return False
        return signature_is_valid(self.issuer.public_key, way, signature, parts.tbs)


def _differences(row: RecordedCertificate, parts: _Parts) -> Iterator[str]:
    _, serial, _, _, validity, subject, spki, _ = parts.fields
    if serial != _serial(row.serial):
        yield f"its serial number is {contents(serial).hex()}"
    if validity != _validity(row.not_before, row.not_after):
        yield "its validity is not the recorded one"
    if not contents(subject).startswith(_common_name(row.device_id)):
        yield "its subject does not begin with the device id"
    if sha256(spki).digest() != row.spki_sha256:
        yield "its public key is not the recorded one"
    if sha256(parts.tbs).digest() != row.tbs_sha256:
        yield "it is not the one that was journalled (tbs_sha256)"
    if not parts.identifies_key:
        yield "its subject key identifier is not that of its public key"
    if parts.issuer_key_id != row.issuer_key_id:
        yield "its authority key identifier is not the recorded one"
    if row.void_reason is not None:
        yield "its intent is void"
    if row.is_revoked and row.crl_url != next(iter(parts.urls), None):
        yield f"its revocation names the CRL {row.crl_url!a:.300}, which it does not state"


def _serial(key: object) -> bytes:
    if not isinstance(key, bytes) or len(key) != SERIAL_BYTES:
        return b""
    return integer(int.from_bytes(key, "big"))


@lru_cache(maxsize=64, typed=True)
def _validity(not_before: int, not_after: int) -> bytes:
    try:
        return encode_validity(validity_of(not_before, not_after))
    except _BAD_TIMES:
        return b""


def _common_name(device_id: object) -> bytes:
    """Return the RDN that every profile begins the subject with."""
    try:
        return contents(subject_of(device_id)) if isinstance(device_id, str) else b"\0"
    except UnicodeEncodeError:
        return b"\0"


def _read_extensions(certificate: x509.Certificate) -> tuple[bytes | None, tuple[str, ...]]:
    identifier: bytes | None = None
    urls: list[str] = []
    for extension in certificate.extensions:
        match extension.value:
            case x509.AuthorityKeyIdentifier() as value:
                identifier = value.key_identifier
            case x509.CRLDistributionPoints() as value:
                names = (name for point in value for name in point.full_name or ())
                urls += (name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))
    return identifier, tuple(urls)
