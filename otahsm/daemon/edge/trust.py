"""Checks whether clients' certificates are still trusted after the TLS handshake.

TLS verifies a certificate once, when a connection starts. While it is open, the certificate may be put on the
operator CA's CRL, or its CA may be removed from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from otahsm.errors import ConfigError
from otahsm.pki.chain import signed
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.system.files import read_file

_LONGEST: Final = 8  # certificates in a chain
_KNOWN: Final = 16_384  # more than the limit on connections
_PEM: Final = b"-----BEGIN X509 CRL-----"
_END: Final = b"-----END X509 CRL-----"

Crl = x509.CertificateRevocationList


class Trust:
    """Verifies the certificates of clients.

    Args:
        changed: called with the SHA-256 of all certificates that are no longer trusted, and why.
    """

    def __init__(self, changed: Callable[[Mapping[bytes, str]], None]) -> None:
        self._changed = changed
        self._authorities: Sequence[x509.Certificate] = ()
        self._crls: Sequence[Crl] = ()
        self._known: dict[bytes, tuple[bytes, bytes]] = {}
        self._distrusted: dict[bytes, str] = {}

    def use(self, authorities: Sequence[x509.Certificate], crls: Sequence[Crl]) -> None:
        """Verify all known clients against these operator CAs and CRLs, and new ones from now on."""
        self._authorities, self._crls = authorities, crls
        judged = {sha256: self._judge(*chain) for sha256, chain in self._known.items()}
        self._distrusted = {sha256: why for sha256, why in judged.items() if why}
        self._changed(self._distrusted)

    def verify_new_client(self, sha256: bytes, own: bytes, above: bytes) -> None:
        """Verify a client, if it is new.

        Args:
            sha256: the SHA-256 of its certificate.
            own: its certificate, in PEM.
            above: the other certificates that it sent, in PEM; may be empty.
        """
        if sha256 in self._known:
            return
        if len(self._known) >= _KNOWN:
            del self._known[next(iter(self._known))]
        self._known[sha256] = own, above
        if why := self._judge(own, above):
            self._distrusted[sha256] = why
            self._changed(self._distrusted)

    def _judge(self, own: bytes, above: bytes) -> str:
        """Return why a certificate is not trusted; "" if it is."""
        try:
            return self._judge_chain(
                x509.load_pem_x509_certificate(own),
                x509.load_pem_x509_certificates(above) if above else [],
            )
        except PARSE_ERRORS:
            return "its certificates can't be read"

    def _judge_chain(self, certificate: x509.Certificate, others: Sequence[x509.Certificate]) -> str:
        for _ in range(_LONGEST):
            for crl in self._crls:
                if (
                    crl.issuer == certificate.issuer
                    and crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
                ):
                    return (
                        f"the certificate of {certificate.subject.rfc4514_string()} is on the CRL of its CA"
                    )
            if any(signed(authority, certificate) for authority in self._authorities):
                return ""
            issuer = next((other for other in others if signed(other, certificate)), None)
            if issuer is None:
                break
            certificate = issuer
        return "its certificate is not from an operator CA that the daemon trusts"


def read_crls(paths: Sequence[Path], authorities: Sequence[x509.Certificate], now: datetime) -> list[Crl]:
    """Read the CRLs of operator CAs, in PEM (one or several per file) or DER.

    Raises:
        ConfigError: one can't be read, has expired, or is not from one of these CAs.
    """
    return [crl for path in paths for crl in _read(path, authorities, now)]


def _read(path: Path, authorities: Sequence[x509.Certificate], now: datetime) -> list[Crl]:
    try:
        content = read_file(path, f"the CRL {path}")
        if _PEM in content:
            parts = content.split(_END)[:-1]
            crls = [x509.load_pem_x509_crl(part[part.index(_PEM) :] + _END) for part in parts]
        else:
            crls = [x509.load_der_x509_crl(content)]
        ours = all(any(_signed(crl, authority) for authority in authorities) for crl in crls)
    except PARSE_ERRORS:
        raise ConfigError(f"{path} is not a CRL") from None
    if any(crl.next_update_utc is not None and crl.next_update_utc <= now for crl in crls):
        raise ConfigError(
            f"the CRL {path} has expired: its nextUpdate has passed",
            hint="Fetch a new one from the operator CA. If it expires while the daemon runs, it still holds.",
        )
    if not ours:
        raise ConfigError(
            f"the CRL {path} is not from a CA in [tls] client_ca",
            hint="For a CRL of an intermediate CA, client_ca must also contain that CA's certificate.",
        )
    return crls


def _signed(crl: Crl, authority: x509.Certificate) -> bool:
    if crl.issuer != authority.subject:
        return False
    return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type] # checked by it
