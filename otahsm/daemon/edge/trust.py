"""Checks whether clients' certificates are still trusted after the TLS handshake.

TLS verifies a certificate once, when a connection starts. While it is open, the certificate, or that of a CA
above it, may be put on an operator CA's CRL, or its CA may be removed from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography import x509

from otahsm.pki.chain import signed
from otahsm.pki.crls.clients import ClientCrl
from otahsm.pki.parsing import PARSE_ERRORS

_MAX_SENT: Final = 16  # certificates besides its own that a client may send
_KNOWN: Final = 16_384  # more than the limit on connections


class Trust:
    """Verifies the certificates of clients.

    Args:
        changed: called with the SHA-256 of all certificates that are no longer trusted, and why.
    """

    def __init__(self, changed: Callable[[Mapping[bytes, str]], None]) -> None:
        self._changed = changed
        self._authorities: Sequence[x509.Certificate] = ()
        self._crls: Sequence[ClientCrl] = ()
        self._known: dict[bytes, tuple[bytes, bytes]] = {}
        self._distrusted: dict[bytes, str] = {}

    def use(self, authorities: Sequence[x509.Certificate], crls: Sequence[ClientCrl]) -> None:
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

    def _judge_chain(self, own: x509.Certificate, sent: Sequence[x509.Certificate]) -> str:
        """Return why a certificate is not trusted; "" if it is.

        No certificate that may be above it may be revoked, whichever of them TLS has used: so a client can't
        hide a CA's revocation behind another certificate of that CA.
        """
        if len(sent) > _MAX_SENT:
            return f"it sent more than {_MAX_SENT} certificates of CAs"
        others = [*self._authorities, *sent]
        above = [own]
        for certificate in above:  # grows, by each certificate once
            if any(crl.revokes(certificate) for crl in self._crls):
                return f"the certificate of {certificate.subject.rfc4514_string()} is on the CRL of its CA"
            above += [other for other in others if other not in above and signed(other, certificate)]
        if any(certificate in self._authorities for certificate in above):
            return ""
        return "its certificate is not from an operator CA that the daemon trusts"
