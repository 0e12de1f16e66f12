"""The operator CA of a fleet, and clients with certificates of it, or of others that pretend."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from otahsm.client import ClientTls

from support.harness import Fleet

_HOUR = timedelta(hours=1)
ISSUER = 'roles = ["issuer"]\nprofiles = ["*"]'
CLIENT_AUTH = (ExtendedKeyUsageOID.CLIENT_AUTH,)


class OperatorCa:
    """The operator CA of a fleet; with `key`, another one that has the same name."""

    def __init__(self, fleet: Fleet, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.fleet = fleet
        tls = fleet.folder / "tls"
        self.certificate = x509.load_pem_x509_certificate((tls / "operator-ca.pem").read_bytes())
        own = load_pem_private_key((tls / "operator-ca.key").read_bytes(), None)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        self.key = key or own

    def issue(
        self,
        name: str,
        names: Sequence[x509.GeneralName] = (),
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        begins: timedelta = -_HOUR,
        ends: timedelta = 24 * _HOUR,
        purposes: Sequence[x509.ObjectIdentifier] = CLIENT_AUTH,
        raw_names: bytes = b"",
    ) -> ClientTls:
        """Issue a client certificate; times are from now on, `raw_names` is its subjectAltName in DER."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not name)
        if raw_names:
            oid = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, raw_names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        folder = self.fleet.folder / "tls" / f"client-{certificate.serial_number:x}"
        folder.mkdir()
        (folder / "client.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (folder / "client.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return ClientTls(
            self.fleet.folder / "tls/operator-ca.pem", folder / "client.pem", folder / "client.key"
        )

    def revoke(
        self, *clients: ClientTls, ends: timedelta = 24 * _HOUR, begins: timedelta = -2 * _HOUR
    ) -> Path:
        """Write a CRL with these clients on it; return its path. Times are from now on."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now + begins)
            .next_update(now + ends)
        )
        for client in clients:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate_of(client).serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        path = self.fleet.folder / "tls/operator-ca.crl"
        temporary = path.with_suffix(".new")
        temporary.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        temporary.replace(path)
        return path


def certificate_of(client: ClientTls) -> x509.Certificate:
    return x509.load_pem_x509_certificate(client.certificate.read_bytes())


def allow(fleet: Fleet, name: str, identity: str, terms: str = ISSUER) -> None:
    """Add a client to the fleet's policy."""
    path = fleet.folder / "policy.toml"
    path.write_text(f'{path.read_text()}\n[clients.{name}]\nidentities = ["{identity}"]\n{terms}\n')


def new_client(fleet: Fleet, name: str, terms: str = ISSUER) -> ClientTls:
    """Make a client with a certificate, and a place in the policy."""
    allow(fleet, name, f"cn:{name}", terms)
    return OperatorCa(fleet).issue(name)
