"""Checks a daemon's certificates before anybody uses them: a daemon may be faulty, or taken over.

Every certificate that a client gets goes through `CertificateChecker.read`. It is the requested one if

- its public key is that of the CSR,
- its only common name is the device id of the request, or if the request names none, that of the CSR,
- it is not a CA's (RFC 5280, section 4.2.1.9),
- each certificate of its chain is signed by the next one, a CA's, and the last one by a trust anchor.

What the daemon says besides must agree with it. Validity is not compared with this machine's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from otahsm.client.values import Authority, CertificateRequest, IssuedCertificate
from otahsm.errors import CertificateRejectedError, ConfigError, RequestRefusedError
from otahsm.pki.anchor import is_ca, is_root, issuer_of, name_of
from otahsm.pki.chain import signed
from otahsm.pki.names import check_device_id
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.pki.serial import SerialNumber
from otahsm.v1 import issuance_pb2 as pb

_MAX_CHAIN: Final = 8
_MAX_KNOWN: Final = 64
_UNTRUSTED_HINT: Final = (
    "Nothing was written. If the daemon has a new CA, get its root from the security team, and name it beside"
    " the old one in [client] fleet_ca. If not, the daemon may have been taken over."
)


class _Issuer(NamedTuple):
    """A certificate that signs devices, and the trust anchor that it leads to; they may be one."""

    certificate: x509.Certificate
    anchor: bytes


class CertificateChecker:
    """Checks certificates against trust anchors.

    Args:
        anchors: root certificates in DER, at least one.

    Raises:
        ConfigError: one is not a root certificate.
    """

    def __init__(self, anchors: Sequence[bytes]) -> None:
        self._anchors = [_Issuer(_load_anchor(anchor), anchor) for anchor in dict.fromkeys(anchors)]
        self._known: dict[tuple[bytes, ...], list[_Issuer]] = {(): self._anchors}

    def accepts(self, roots: Sequence[bytes]) -> bool:
        """Return whether one of a daemon's roots is a trust anchor, or another certificate of its key."""
        try:
            found = [x509.load_der_x509_certificate(root) for root in roots]
            keys = [(one.subject, one.public_key()) for one in found]
            return any((own.subject, own.public_key()) in keys for own, _ in self._anchors)
        except PARSE_ERRORS:
            return False

    def trusts(self, authority: Authority) -> bool:
        """Return whether a CA is a trust anchor, or one is above it."""
        if not authority.chain:
            return self.accepts([authority.trust_anchor])
        try:
            return bool(self._issuers(authority.chain))
        except PARSE_ERRORS:
            return False

    def leaf_of(self, device_id: str, chain: Sequence[bytes]) -> x509.Certificate | None:
        """Return the certificate of a device, whatever its key; None if it is not that, or not trusted.

        Args:
            device_id: the device.
            chain: DER certificates, the device's first.
        """
        try:
            leaf = x509.load_der_x509_certificate(chain[0])
            is_its = _names(leaf.subject) == [device_id] and not is_ca(leaf)
            return leaf if is_its and self._issuers_of(leaf, tuple(chain[1:])) else None
        except (IndexError, *PARSE_ERRORS):
            return None

    def read(self, request: CertificateRequest, message: pb.IssuedCertificate) -> IssuedCertificate:
        """Return the certificate that a daemon issued for a request.

        Raises:
            CertificateRejectedError: it is not the one that was requested, or no trust anchor is above it.
        """
        try:
            return self._read(request, message)
        except PARSE_ERRORS as error:
            raise CertificateRejectedError("the daemon's certificate can't be read") from error
        except RequestRefusedError as error:
            raise CertificateRejectedError(
                f"the daemon returned a bad certificate: {error.message}"
            ) from error

    def _read(self, request: CertificateRequest, message: pb.IssuedCertificate) -> IssuedCertificate:
        chain = tuple(message.chain)
        if not 1 <= len(chain) <= _MAX_CHAIN:
            raise CertificateRejectedError(f"the daemon returned a chain of {len(chain)} certificates")
        leaf = x509.load_der_x509_certificate(chain[0])
        device_id = _check_subject(request, leaf)
        if (
            message.device_id != device_id
            or int.from_bytes(message.serial_number, "big") != leaf.serial_number
        ):
            raise CertificateRejectedError(
                "the daemon returned a certificate with another serial number or device id than it states"
            )
        issuers = self._issuers_of(leaf, chain[1:])
        if not issuers:
            raise CertificateRejectedError(
                f"no trusted fleet root is above the certificate of {issuer_of(leaf)} from the daemon",
                hint=_UNTRUSTED_HINT,
            )
        return IssuedCertificate(
            request=request,
            device_id=device_id,
            serial=SerialNumber(leaf.serial_number),
            chain=chain,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            replayed=message.replayed,
            trust_anchor=issuers[0].anchor,
        )

    def _issuers_of(self, leaf: x509.Certificate, above: tuple[bytes, ...]) -> list[_Issuer]:
        """Return what has signed a device under these certificates; nothing if no anchor is above."""
        return [one for one in self._issuers(above) if signed(one.certificate, leaf)]

    def _issuers(self, above: tuple[bytes, ...]) -> list[_Issuer]:
        """Return what may have signed a device under these certificates; nothing if no anchor is above."""
        if above not in self._known:
            if len(self._known) >= _MAX_KNOWN:  # no daemon has so many CAs
                self._known = {(): self._anchors}
            certificates = [x509.load_der_x509_certificate(der) for der in above]
            holds = all(is_ca(one) for one in certificates) and all(
                signed(parent, child) for child, parent in pairwise(certificates)
            )
            anchors = self._above(certificates[-1]) if holds else []
            self._known[above] = [_Issuer(certificates[0], one.anchor) for one in anchors]
        return self._known[above]

    def _above(self, certificate: x509.Certificate) -> list[_Issuer]:
        return [one for one in self._anchors if signed(one.certificate, certificate)]


def load_anchors(certificates: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    """Return root certificates in DER. Raises ConfigError: one is not a root."""
    anchors = tuple(one.public_bytes(Encoding.DER) for one in certificates)
    CertificateChecker(anchors)
    return anchors


def _check_subject(request: CertificateRequest, leaf: x509.Certificate) -> str:
    """Check that a certificate is that of the device and of the key; return the device id."""
    csr = x509.load_der_x509_csr(request.csr)
    asked = [request.device_id] if request.device_id else _names(csr.subject)
    names = _names(leaf.subject)
    if len(names) != 1 or names != asked:
        raise CertificateRejectedError(f"the daemon returned another device's certificate: {name_of(leaf)}")
    check_device_id(names[0])  # it may become a path
    if leaf.public_key() != csr.public_key():
        raise CertificateRejectedError("the daemon returned a certificate for another key than the CSR's")
    if is_ca(leaf):
        raise CertificateRejectedError("the daemon returned a certificate of a CA")
    return names[0]


def _names(subject: x509.Name) -> list[str]:
    return [str(name.value) for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _load_anchor(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        root = is_root(certificate)
    except PARSE_ERRORS:
        raise ConfigError("a trust anchor is not a certificate in DER") from None
    if not root:
        raise ConfigError(
            f"the trust anchor {name_of(certificate)} is not a root: a CA certificate that signed itself",
            hint="Name the fleet's root certificate; `otahsm ca export anchor` prints it.",
        )
    return certificate
