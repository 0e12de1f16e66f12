"""Reads certificate signing requests (PKCS#10, RFC 2986), which are hostile until shown otherwise.

The rules, in the order in which they are checked, cheapest first:

1. at most 16 KiB, strict DER, nothing after it
2. the key's type and size are the profile's, and the key is not a weak one
3. the key has the one canonical encoding, so that one key can't pass for two
4. the subject is the device id: exactly one common name, matching the profile's pattern, and equal to
   the device id that the client named, if it named one
5. nothing is asked for that the profile does not give (refused or ignored, as the profile says; never
   copied)
6. the signature proves possession of the private key, and uses a SHA-2 digest
"""

from __future__ import annotations

import hashlib
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import Binding
from otahsm.pki.der import children
from otahsm.pki.extensions import requestable_extensions
from otahsm.pki.keytypes import KeyType, PublicKey, describe_key, family_of
from otahsm.pki.keytypes.spki import flaw, subject_key_identifier
from otahsm.pki.names import check_device_id, device_id_of
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.pki.profile import Profile

MAX_CSR_BYTES: Final = 16 * 1024

_NO_ATTRIBUTES: Final = bytes.fromhex("a000")
_EXTENSION_REQUESTS: Final = {"1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14"}  # PKCS#9's, Microsoft's
_DIGESTS: Final = {"sha256", "sha384", "sha512"}


def derive_request_id(profile: str, csr: bytes) -> str:
    """Name a request by its content: SHA-256 over profile, a zero octet and CSR, in lower-case hexadecimal.

    Two requests with this id are the same request, so it can't be in conflict with anything.
    """
    return hashlib.sha256(profile.encode() + b"\0" + csr).hexdigest()


def check_csr(der: bytes, profile: Profile, expected_device_id: str = "") -> Binding:
    """Check a CSR against all the rules of this module.

    Args:
        der: the CSR.
        profile: what its certificate would be issued under.
        expected_device_id: the device id in the request, or "".

    Raises:
        RequestRefusedError: naming the field and the rule.
    """
    if not der:
        raise RequestRefusedError("csr", "the CSR is empty")
    if len(der) > MAX_CSR_BYTES:
        raise RequestRefusedError("csr", f"the CSR has more than {MAX_CSR_BYTES} bytes")
    try:
        return _check(der, profile, expected_device_id)
    except PARSE_ERRORS as error:
        hint = "Send DER, not PEM." if der.startswith(b"-----") else None
        raise RequestRefusedError("csr", f"can't read the CSR: {flaw(error)}", hint=hint) from None


def _check(der: bytes, profile: Profile, expected_device_id: str) -> Binding:
    csr = x509.load_der_x509_csr(der)
    key = _public_key(csr)
    family = family_of(key)
    key_type: KeyType | None = family.type_of(key) if family else None
    if family is None or key_type is None or key_type not in profile.key_types:
        raise RequestRefusedError(
            "csr.public_key",
            f"the key is {describe_key(key)}; the profile allows {', '.join(sorted(profile.key_types))}",
        )
    public_key = cast(PublicKey, key)
    family.check(public_key)
    _, subject, spki, attributes = children(csr.tbs_certrequest_bytes)  # RFC 2986, section 4.1
    if not family.is_canonical(spki, public_key):
        raise RequestRefusedError(
            "csr.public_key", "the key is not in its canonical DER encoding (named curve, uncompressed point)"
        )
    ignore = profile.csr_extras == "ignore"
    device_id = device_id_of(subject, ignore_others=ignore)
    check_device_id(device_id, profile.device_id)
    if expected_device_id and expected_device_id != device_id:
        raise RequestRefusedError(
            "device_id",
            f"the CSR's common name is {device_id!a}, but the request is for {expected_device_id[:128]!a}",
        )
    if attributes != _NO_ATTRIBUTES and not ignore:
        _check_requested_extensions(csr, profile, spki)
    _check_possession(csr, public_key)
    return Binding(device_id, spki)


def _public_key(csr: x509.CertificateSigningRequest) -> object:
    try:
        return csr.public_key()
    except PARSE_ERRORS as error:
        raise RequestRefusedError("csr.public_key", f"can't read the key: {flaw(error)}") from None


def _check_requested_extensions(csr: x509.CertificateSigningRequest, profile: Profile, spki: bytes) -> None:
    # `csr.extensions` sees the first such attribute alone.
    if sum(attribute.oid.dotted_string in _EXTENSION_REQUESTS for attribute in csr.attributes) > 1:
        raise RequestRefusedError("csr.extensions", "the CSR requests extensions in more than one attribute")
    given = requestable_extensions(profile)
    for extension in csr.extensions:
        value = extension.value
        if given.get(extension.oid.dotted_string) == value.public_bytes():
            continue
        if isinstance(value, x509.SubjectKeyIdentifier) and value.digest == subject_key_identifier(spki):
            continue
        raise RequestRefusedError(
            "csr.extensions",
            f"the CSR requests an extension that the profile does not grant: {type(value).__name__}"
            f" ({extension.oid.dotted_string})",
            hint='Make the CSR without it, or let the profile ignore it (csr_extras = "ignore"). It is never'
            " copied into the certificate.",
        )


def _check_possession(csr: x509.CertificateSigningRequest, key: PublicKey) -> None:
    digest = csr.signature_hash_algorithm
    if digest is not None and digest.name not in _DIGESTS:
        raise RequestRefusedError(
            "csr.signature", f"the CSR is signed with {digest.name}; use SHA-256, SHA-384 or SHA-512"
        )
    if not _is_signed_by(csr, key):
        raise RequestRefusedError(
            "csr.signature",
            "the CSR is not signed by its own key, so possession of the private key is not proven",
            hint="Generate key and CSR again on the device. The CSR was changed after it was signed.",
        )


def _is_signed_by(csr: x509.CertificateSigningRequest, key: PublicKey) -> bool:
    """Do what `csr.is_signature_valid` does, without reading the key a second time."""
    how = csr.signature_algorithm_parameters
    try:
        if isinstance(how, ec.ECDSA) and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(csr.signature, csr.tbs_certrequest_bytes, how)
            return True
    except InvalidSignature:
        return False
    return csr.is_signature_valid
