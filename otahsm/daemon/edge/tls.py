"""Mutual TLS: the daemon's credentials, and the identities of clients.

There is no plaintext port, and no option for one. gRPC's TLS stack only accepts TLS 1.2 and 1.3, and only
client certificates with the clientAuth purpose.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from otahsm.access import identity_of
from otahsm.authority import Caller
from otahsm.config import TlsConfig
from otahsm.errors import ConfigError
from otahsm.pki.anchor import fingerprint_text, is_valid
from otahsm.pki.chain import Chain
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.system.files import Files, read_file
from otahsm.system.tls_files import read_certificates, read_key_pair

_SPIFFE: Final = "spiffe:"

Context = grpc.aio.ServicerContext[Any, Any]


class TlsFiles(NamedTuple):
    """The daemon's certificate and key and the operator CA, in PEM; the operator CAs, and the fingerprint."""

    certificate: bytes
    key: bytes
    client_ca: bytes
    operators: Sequence[x509.Certificate]
    fingerprint: str


class ServerTls:
    """The daemon's TLS credentials, which may change; new connections use the current ones.

    Args:
        files: the initial files.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._new: grpc.ServerCertificateConfiguration | None = None

    def use(self, files: TlsFiles) -> None:
        """Use other files for new connections."""
        self.files = files
        self._new = _configuration(files)

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials for a server."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.files),
            self._fetch,  # type: ignore[arg-type] # upstream's type lacks None
            require_client_authentication=True,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a new configuration, or None if it has not changed since the last call. In gRPC's thread."""
        new, self._new = self._new, None
        return new


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.client_ca
    )


def load_tls(tls: TlsConfig, fleet: Sequence[Chain], now: datetime, files: Files) -> TlsFiles:
    """Load the daemon's certificate and key, and the operator CA.

    Raises:
        ConfigError: a file can't be read or trusted, certificate and key don't belong together, the
            certificate is not valid now, or the operator CA is the fleet CA (every device would be an issuing
            client).
    """
    certificate, key, own = read_key_pair("tls", tls.certificate, tls.key, files=files)
    client_ca, operators = read_certificates("[tls] client_ca", tls.client_ca, files)
    if not is_valid(own, now):
        raise ConfigError(
            f"[tls] certificate {tls.certificate} is not valid now:"
            f" it is valid from {own.not_valid_before_utc:%Y-%m-%d} to {own.not_valid_after_utc:%Y-%m-%d}"
        )
    fleet_keys = [
        x509.load_der_x509_certificate(der).public_key() for chain in fleet for der in chain.certificates
    ]
    if any(operator.public_key() in fleet_keys for operator in operators):
        raise ConfigError(
            f"[tls] client_ca {tls.client_ca} is the fleet CA: every device could issue certificates",
            hint="Operators need their own CA; `otahsm quickstart` makes one.",
        )
    return TlsFiles(certificate, key, client_ca, operators, fingerprint_text(own))


def chain_of(context: Context) -> tuple[bytes, bytes]:
    """Return the client's certificate, and the other certificates it sent, in PEM."""
    properties = context.auth_context()
    return next(iter(properties["x509_pem_cert"])), b"".join(properties.get("x509_pem_cert_chain", ()))


def caller_of(context: Context) -> Caller:
    """Return the client of a call, from the certificate that TLS has verified.

    Its identity is the first URI in the certificate (such as a SPIFFE id), otherwise the first DNS name,
    otherwise the common name. If there is none, or a SPIFFE id with other URIs, it is the fingerprint.
    """
    return _caller(next(iter(context.auth_context()["x509_pem_cert"])))


def read_caller(path: Path) -> Caller:
    """Return the client that a certificate in a PEM file identifies. Raises ConfigError."""
    pem = read_file(path)
    try:
        return _read_caller(pem)
    except PARSE_ERRORS:
        raise ConfigError(f"{path} is not a certificate in PEM") from None


@lru_cache(maxsize=1024)
def _caller(pem: bytes) -> Caller:
    try:
        return _read_caller(pem)
    except PARSE_ERRORS:  # TLS verified it, but it has no usable name or key
        sha256 = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).digest()
        return Caller(f"sha256:{sha256.hex()}", sha256)


def _read_caller(pem: bytes) -> Caller:
    certificate = x509.load_pem_x509_certificate(pem)
    fingerprint = certificate.fingerprint(SHA256())
    spki = encode_spki(certificate.public_key())
    return Caller(
        identity=_identity(certificate) or f"sha256:{fingerprint.hex()}",
        certificate_sha256=fingerprint,
        spki_sha256=hashlib.sha256(spki).digest(),
        not_after=certificate.not_valid_after_utc,
    )


def _identity(certificate: x509.Certificate) -> str | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) > 1 and any(uri.lower().startswith(_SPIFFE) for uri in uris):
        return None  # SPIFFE X509-SVID, section 2: exactly one URI, or it must be rejected
    for uri in uris:
        return identity_of("uri", uri)
    for dns in names.get_values_for_type(x509.DNSName):
        return identity_of("dns", dns)
    for common_name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        return identity_of("cn", str(common_name.value))
    return None
