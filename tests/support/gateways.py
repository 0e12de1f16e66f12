"""An OTA gateway's CA and certificates, and credentials.zip as the backends make it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
URL = "https://gateway.example:30443"
# In each file that no device may have, so that it is found wherever it comes out.
SECRET = b"s3cr3t-of-the-build-server"


@dataclass(frozen=True)
class Signer:
    """A certificate, its key, and what signs it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def fingerprint(self) -> str:
        return f"sha256:{self.certificate.fingerprint(SHA256()).hex()}"

    def authority(self, name: str, begin: datetime = NOW - DAY, end: datetime = NOW + 900 * DAY) -> Signer:
        """Make a CA below this one."""
        return authority(name, begin, end, above=self)

    def server(
        self,
        names: Sequence[str],
        begin: datetime = NOW - DAY,
        end: datetime = NOW + 90 * DAY,
        name: str = "gw",
    ) -> Signer:
        """Make a server's certificate; without names it has its common name alone."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, key, begin, end, self).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.IPAddress(ip_address(one)) if one[0].isdigit() else x509.DNSName(one)
                        for one in names
                    ]
                ),
                critical=False,
            )
        return Signer(builder.sign(self.key, SHA256()), key)


def authority(
    name: str,
    begin: datetime = NOW - DAY,
    end: datetime = NOW + 900 * DAY,
    *,
    above: Signer | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    critical: bool = True,
) -> Signer:
    """Make a CA, below another or a root."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, key, begin, end, above).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=critical
    )
    return Signer(builder.sign(above.key if above else key, SHA256()), key)


def community_authority(name: str) -> Signer:
    """Make a root as the Community Edition's server_ca.cnf does, which strict verifiers refuse."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(name, key, NOW - DAY, NOW + 900 * DAY, None)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
    )
    return Signer(builder.sign(key, SHA256()), key)


def p12(client: Signer, *authorities: Signer) -> bytes:
    """Make an autoprov_credentials.p12: a client's key and certificate, and CAs."""
    certificates = [one.certificate for one in authorities]
    return pkcs12.serialize_key_and_certificates(
        None, client.key, client.certificate, certificates, NoEncryption()
    )


def build_side() -> dict[str, bytes]:
    """What no device may have."""
    names = (
        "treehub.json",
        "client_auth.p12",
        "tufrepo.url",
        "api_gateway.url",
        "targets.pub",
        "targets.sec",
    )
    return {name: SECRET + name.encode() for name in names} | {"root.json": b"{}"}


def make_zip(path: Path, entries: Mapping[str, bytes]) -> Path:
    """Write a credentials.zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return path


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime, above: Signer | None
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.certificate.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
