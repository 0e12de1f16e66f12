"""Builds the self-signed root of a fleet, and certificates that prove who has a CA's key.

Two kinds. `root` is accepted by every verifier: critical basicConstraints CA:TRUE with a pathLenConstraint,
critical keyUsage keyCertSign and cRLSign, SKI and AKI. With pathLenConstraint 0, verifiers refuse every CA
that somebody makes with a signature of its key. `root-here` is the root of the OTA Connect guide to the
letter: basicConstraints CA:TRUE (not critical, without pathLenConstraint), keyUsage keyCertSign, critical
extendedKeyUsage serverAuth. An OpenSSL or nginx gateway refuses every device under it ("unsupported
certificate purpose"), so it is only for a gateway that insists on it.
"""

from __future__ import annotations

from typing import Literal

from asn1crypto import core
from asn1crypto import x509 as asn1_x509

from otahsm.pki.certificate import Validity, encode_tbs
from otahsm.pki.extensions import extension, key_identifiers
from otahsm.pki.issuer import Issuer
from otahsm.pki.keytypes.family import SignatureAlgorithm
from otahsm.pki.keytypes.spki import subject_key_identifier

RootKind = Literal["root", "root-here"]


def build_root_tbs(
    *,
    common_name: str,
    spki: bytes,
    algorithm: SignatureAlgorithm,
    serial: int,
    validity: Validity,
    kind: RootKind,
    path_length: int = 0,
) -> bytes:
    """Build the TBSCertificate of a self-signed root, `CN=<common_name>`.

    Args:
        common_name: 1 to 64 characters.
        spki: the root's key, a SubjectPublicKeyInfo in DER.
        algorithm: how that key signs.
        serial: positive, at most 20 octets.
        validity: from when to when.
        kind: see above.
        path_length: for the kind `root`, the most CAs that a chain may have between the root and a device
            (pathLenConstraint: RFC 5280, section 4.2.1.9); `root-here` has no limit.

    Returns:
        The TBSCertificate in DER.
    """
    identifier = subject_key_identifier(spki)
    if kind == "root":
        limited = asn1_x509.BasicConstraints({"ca": True, "path_len_constraint": path_length})
        extensions = [
            extension("basic_constraints", limited, critical=True),
            extension("key_usage", asn1_x509.KeyUsage({"key_cert_sign", "crl_sign"}), critical=True),
            *key_identifiers(spki, identifier),
        ]
    else:
        extensions = [
            extension("basic_constraints", asn1_x509.BasicConstraints({"ca": True})),
            extension("key_usage", asn1_x509.KeyUsage({"key_cert_sign"})),
            extension("extended_key_usage", asn1_x509.ExtKeyUsageSyntax(["server_auth"]), critical=True),
            extension("key_identifier", core.OctetString(identifier)),
        ]
    name: bytes = asn1_x509.Name.build({"common_name": common_name}).dump()
    return encode_tbs(
        subject=name,
        spki=spki,
        issuer=name,
        algorithm=algorithm,
        serial=serial,
        validity=validity,
        extensions=extensions,
    )


def build_possession_tbs(code: str, spki: bytes, issuer: Issuer, *, serial: int, validity: Validity) -> bytes:
    """Build the TBSCertificate that shows a cloud that its customer has a CA's key, in DER.

    Clouds (AWS IoT: "registration code"; Azure DPS: "verification code") hand out a code and want a
    certificate of the CA whose common name it is. It is for no device: it is not valid for TLS clients.
    """
    return encode_tbs(
        subject=asn1_x509.Name.build({"common_name": code}).dump(),
        spki=spki,
        issuer=issuer.subject,
        algorithm=issuer.algorithm,
        serial=serial,
        validity=validity,
        extensions=[
            extension("basic_constraints", asn1_x509.BasicConstraints({"ca": False}), critical=True),
            extension("key_usage", asn1_x509.KeyUsage({"digital_signature"}), critical=True),
            *key_identifiers(spki, issuer.key_identifier),
        ],
    )
