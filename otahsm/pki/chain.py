"""The CA's own certificates: reads a chain, and checks what its first certificate may sign."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from otahsm.errors import ConfigError
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes import PublicKey, describe_key, key_type_of, signature_algorithm
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.keytypes.spki import flaw, subject_key_identifier
from otahsm.pki.parsing import PARSE_ERRORS


@dataclass(frozen=True, slots=True)
class Chain:
    """The signing CA, what lies between it and the root, and the root; certificates in DER."""

    issuer: Issuer
    intermediates: tuple[bytes, ...]
    trust_anchor: bytes

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """All of them, the one that signs first and the root last."""
        return *self.intermediates, self.trust_anchor


def load_issuer(der: bytes, *, pss: bool = False) -> Issuer:
    """Read the CA certificate that signs.

    Args:
        der: the certificate.
        pss: whether an RSA key signs with PSS.

    Raises:
        ConfigError: it can't be read, or it is not a CA that may sign certificates.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        key_type = key_type_of(key)
        identifier = find_extension(certificate, x509.SubjectKeyIdentifier)
    except PARSE_ERRORS as error:
        raise ConfigError(f"can't read the CA certificate: {flaw(error)}") from error
    name = certificate.subject.rfc4514_string()
    if key_type is None:
        raise ConfigError(f"the CA certificate {name} holds a key that can't sign here: {describe_key(key)}")
    _check_is_ca(certificate)
    public_key = cast(PublicKey, key)
    return Issuer(
        certificate=der,
        subject=certificate.subject.public_bytes(),
        subject_text=name,
        key_identifier=identifier.digest if identifier else subject_key_identifier(encode_spki(public_key)),
        public_key=public_key,
        key_type=key_type,
        algorithm=signature_algorithm(public_key, pss=pss),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def load_chain(pem: bytes, name: str = "the file", *, pss: bool = False) -> Chain:
    """Read a PEM file of CA certificates: the one that signs first, each signed by the next, the root last.

    Args:
        pem: the file.
        name: its name, for errors.
        pss: whether the first one's key, if it is RSA, signs with PSS.

    Raises:
        ConfigError: it is no such chain.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{name} contains no readable PEM certificate") from None
    for child, parent in pairwise([*certificates, certificates[-1]]):
        _check_is_ca(parent)
        if not signed(parent, child):
            raise ConfigError(
                f"{child.subject.rfc4514_string()} is not signed by the next certificate in the file,"
                f" {parent.subject.rfc4514_string()}",
                hint="The file must contain the signing CA first, each certificate's issuer after it, and a"
                " self-signed root last.",
            )
    chain = [certificate.public_bytes(Encoding.DER) for certificate in certificates]
    return Chain(load_issuer(chain[0], pss=pss), tuple(chain[:-1]), chain[-1])


def check_signs_crls(issuer: Issuer) -> None:
    """Check that the CA certificate may sign CRLs (RFC 5280, section 4.2.1.3): else verifiers take none.

    Raises:
        ConfigError: its keyUsage does not allow it.
    """
    if not signs_crls(issuer):
        raise ConfigError(
            f"{issuer.subject_text} may not sign CRLs, which [crl] requires: its keyUsage lacks cRLSign",
            hint="Remove [crl], or use a CA certificate with cRLSign, such as `otahsm ca init` creates.",
        )


def signs_crls(issuer: Issuer) -> bool:
    """Return whether the CA certificate may sign CRLs."""
    usage = find_extension(x509.load_der_x509_certificate(issuer.certificate), x509.KeyUsage)
    return usage is None or usage.crl_sign


def _check_is_ca(certificate: x509.Certificate) -> None:
    """Check that a certificate may sign others, whatever its key; raises ConfigError."""
    name = certificate.subject.rfc4514_string()
    try:
        constraints = find_extension(certificate, x509.BasicConstraints)
        usage = find_extension(certificate, x509.KeyUsage)
    except PARSE_ERRORS as error:
        raise ConfigError(f"can't read the CA certificate: {flaw(error)}") from error
    if constraints is None or not constraints.ca:
        raise ConfigError(f"{name} is not a CA certificate: it has no basicConstraints with CA:TRUE")
    if usage is not None and not usage.key_cert_sign:
        raise ConfigError(f"{name} may not sign certificates: its keyUsage lacks keyCertSign")


def signed(parent: x509.Certificate, child: x509.Certificate) -> bool:
    """Return whether a certificate names another as its issuer, and has its signature."""
    try:
        child.verify_directly_issued_by(parent)
    except (*PARSE_ERRORS, InvalidSignature):
        return False
    return True


_T = TypeVar("_T", bound=x509.ExtensionType)


def find_extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    """Return an extension's value; None if there is none. Raises PARSE_ERRORS if it makes no sense."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
