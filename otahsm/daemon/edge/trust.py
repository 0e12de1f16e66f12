"""Whether a client's certificate still counts, after TLS has let it in.

TLS looks at a certificate once, when a connection begins, and a connection may last for weeks. Meanwhile the
operator CA's CRL names it, or its CA is taken out of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from otahsm.errors import ConfigError
from otahsm.pki import PARSE_ERRORS, signed

_LONGEST: Final = 8  # certificates in a chain
_KNOWN: Final = 16_384  # more than there are connections
_PEM: Final = b"-----BEGIN X509 CRL-----"
_END: Final = b"-----END X509 CRL-----"

Crl = x509.CertificateRevocationList


class Trust:
    """Judges the certificates of clients.

    Args:
        changed: called with the SHA-256 of those that don't count any more, and why.
    """

    def __init__(self, changed: Callable[[Mapping[bytes, str]], None]) -> None:
        self._changed = changed
        self._authorities: Sequence[x509.Certificate] = ()
        self._crls: Sequence[Crl] = ()
        self._known: dict[bytes, tuple[bytes, bytes]] = {}
        self._distrusted: dict[bytes, str] = {}

    def use(self, authorities: Sequence[x509.Certificate], crls: Sequence[Crl]) -> None:
        """Judge everybody who is known by these operator CAs and CRLs, and from now on."""
        self._authorities, self._crls = authorities, crls
        judged = {sha256: self._judge(*chain) for sha256, chain in self._known.items()}
        self._distrusted = {sha256: why for sha256, why in judged.items() if why}
        self._changed(self._distrusted)

    def verify_new_client(self, sha256: bytes, own: bytes, above: bytes) -> None:
        """Judge a client, if it is a new one.

        Args:
            sha256: its certificate's.
            own: its certificate, in PEM.
            above: what it sent besides, in PEM; may be empty.
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
        """Say why a certificate does not count; "" if it does."""
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
        return "its certificate comes from no operator CA that the daemon trusts now"


def read_crls(paths: Sequence[Path], authorities: Sequence[x509.Certificate], now: datetime) -> list[Crl]:
    """Read the CRLs of operator CAs, in PEM, one or several in a file, or DER.

    Raises:
        ConfigError: one can't be read, or is of none of these CAs.
    """
    return [crl for path in paths for crl in _read(path, authorities, now)]


def _read(path: Path, authorities: Sequence[x509.Certificate], now: datetime) -> list[Crl]:
    try:
        content = path.read_bytes()
        if _PEM in content:
            parts = content.split(_END)[:-1]
            crls = [x509.load_pem_x509_crl(part[part.index(_PEM) :] + _END) for part in parts]
        else:
            crls = [x509.load_der_x509_crl(content)]
        ours = all(any(_signed(crl, authority) for authority in authorities) for crl in crls)
    except OSError as error:
        raise ConfigError(f"can't read the CRL {path}: {error.strerror}") from None
    except PARSE_ERRORS as error:
        raise ConfigError(f"{path} is no CRL: {error}") from None
    if any(crl.next_update_utc is not None and crl.next_update_utc <= now for crl in crls):
        raise ConfigError(
            f"the CRL {path} has ended: its nextUpdate is over",
            hint="Fetch a new one from the operator CA. One that ends while the daemon runs goes on to hold.",
        )
    if not ours:
        raise ConfigError(
            f"the CRL {path} is not of a CA in [tls] client_ca",
            hint="A CRL of an intermediate CA needs that CA's certificate in client_ca, besides.",
        )
    return crls


def _signed(crl: Crl, authority: x509.Certificate) -> bool:
    if crl.issuer != authority.subject:
        return False
    return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type] # checked by it
