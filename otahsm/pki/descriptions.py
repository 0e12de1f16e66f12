"""Describes certificates and CSRs in words, for `otahsm show`."""

from __future__ import annotations

import re
import warnings
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from otahsm.errors import ConfigError
from otahsm.pki.keytypes import describe_key, key_type_of
from otahsm.pki.parsing import PARSE_ERRORS, url_in
from otahsm.pki.serial import octets_of

_PEM: Final = re.compile(
    rb"-----BEGIN (?P<label>CERTIFICATE|(?:NEW )?CERTIFICATE REQUEST)-----.+?-----END (?P=label)-----",
    re.DOTALL,
)


class Description(NamedTuple):
    """One certificate or CSR: what it is, and its fields by label, as text or time."""

    title: str
    fields: dict[str, str | datetime]


def describe(content: bytes, name: str = "the file") -> list[Description]:
    """Describe every certificate and CSR in a PEM file, or the one in a DER file.

    Raises:
        ConfigError: there is none, with the name of the file.
    """
    with warnings.catch_warnings():
        # `cryptography` warns of names longer than X.520 allows; who looks at one sees that it is long.
        warnings.simplefilter("ignore", UserWarning)
        return _describe(content, name)


def _describe(content: bytes, name: str) -> list[Description]:
    blocks = [(match["label"] == b"CERTIFICATE", match[0]) for match in _PEM.finditer(content)]
    try:
        if blocks:
            return [
                _certificate(x509.load_pem_x509_certificate(pem))
                if is_certificate
                else _csr(x509.load_pem_x509_csr(pem))
                for is_certificate, pem in blocks
            ]
        try:
            return [_certificate(x509.load_der_x509_certificate(content))]
        except ValueError:
            return [_csr(x509.load_der_x509_csr(content))]
    except PARSE_ERRORS:
        raise ConfigError(
            f"{name} is neither a certificate nor a CSR",
            hint="Name a PEM file (with one or more certificates or CSRs) or a DER file (with exactly one).",
        ) from None


def _certificate(certificate: x509.Certificate) -> Description:
    same = certificate.subject == certificate.issuer
    fields: dict[str, str | datetime] = {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string() + (" (itself)" if same else ""),
        "serial": _serial(certificate.serial_number),
        "valid from": certificate.not_valid_before_utc,
        "valid until": certificate.not_valid_after_utc,
        "public key": _key(certificate.public_key()),
        "signed with": _signature(certificate),
        **_extensions(certificate.extensions),
        "SHA-256": certificate.fingerprint(SHA256()).hex(":"),
    }
    return Description("Certificate", fields)


def _csr(csr: x509.CertificateSigningRequest) -> Description:
    proof = (
        "proven: the signature is the key's own" if csr.is_signature_valid else "NOT PROVEN: bad signature"
    )
    fields: dict[str, str | datetime] = {
        "subject": csr.subject.rfc4514_string(),
        "public key": _key(csr.public_key()),
        "signed with": _signature(csr),
        "possession": proof,
        **{f"asks for {name}": text for name, text in _extensions(csr.extensions).items()},
    }
    return Description("Certificate signing request", fields)


def _serial(serial: int) -> str:
    """Show a serial number in hexadecimal; a negative one, which RFC 5280 forbids, with its sign."""
    return "-" * (serial < 0) + octets_of(abs(serial)).hex()


def _key(key: object) -> str:
    return key_type_of(key) or describe_key(key)


def _signature(signed: x509.Certificate | x509.CertificateSigningRequest) -> str:
    oid = signed.signature_algorithm_oid
    return f"{oid._name} ({oid.dotted_string})"  # noqa: SLF001 - the only public way to the name is repr()


def _extensions(extensions: x509.Extensions) -> dict[str, str]:
    return {
        _spaced(type(extension.value).__name__, extension.oid): _value(extension.value)
        + (", critical" if extension.critical else "")
        for extension in extensions
    }


def _spaced(class_name: str, oid: x509.ObjectIdentifier) -> str:
    if class_name == "UnrecognizedExtension":
        return oid.dotted_string
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", class_name)).lower()


def _value(value: x509.ExtensionType) -> str:  # noqa: PLR0911 - one line a type reads best
    match value:
        case x509.KeyUsage():
            names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
            names += ["key_agreement", "key_cert_sign", "crl_sign"]
            return ", ".join(name for name in names if getattr(value, name)).replace("_", " ")
        case x509.ExtendedKeyUsage():
            return ", ".join(usage._name for usage in value)  # noqa: SLF001 - as above
        case x509.BasicConstraints():
            limit = "" if value.path_length is None else f" with at most {value.path_length} CAs below it"
            return f"a CA{limit}" if value.ca else "not a CA"
        case x509.SubjectKeyIdentifier():
            return value.digest.hex(":")
        case x509.AuthorityKeyIdentifier():
            return value.key_identifier.hex(":") if value.key_identifier else "by name"
        case x509.SubjectAlternativeName():
            return ", ".join(str(name.value) for name in value)
        case x509.CRLDistributionPoints():
            return url_in(value) or value.public_bytes().hex(":")
        case x509.UnrecognizedExtension():
            return value.value.hex(":")
        case _:
            return value.public_bytes().hex(":")
