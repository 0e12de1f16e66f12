"""TLS files: what can't be used is refused where it is examined."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto import pem
from asn1crypto.keys import RSAPrivateKey
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from otahsm.errors import ConfigError
from otahsm.system.tls_files import read_key_pair


def test_an_rsa_key_whose_numbers_do_not_fit_is_refused_but_where_grpc_checks_it(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "line-3")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    ).sign(key, SHA256())
    numbers = RSAPrivateKey.load(
        key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    numbers["private_exponent"] = numbers["private_exponent"].native + 2
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(pem.armor("RSA PRIVATE KEY", numbers.dump()))
    with pytest.raises(ConfigError, match=r"\[tls\] key .*key.pem is not a private key"):
        read_key_pair("tls", *files)
    assert read_key_pair("client", *files, check_key=False).own == certificate
