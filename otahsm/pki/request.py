"""Builds certificate signing requests (PKCS#10, RFC 2986): a device's, and a CA's below an external one."""

from __future__ import annotations

from typing import Final

from asn1crypto import csr, keys
from asn1crypto import x509 as asn1_x509

from otahsm.pki.der import SEQUENCE, tlv
from otahsm.pki.extensions import extension
from otahsm.pki.names import subject_of

_VERSION_1: Final = bytes.fromhex("020100")
_NO_ATTRIBUTES: Final = bytes.fromhex("a000")


def build_request_info(device_id: str, spki: bytes) -> bytes:
    """Build the CertificationRequestInfo `CN=<device_id>`, which the device's key is to sign, in DER."""
    return tlv(SEQUENCE, _VERSION_1, subject_of(device_id), spki, _NO_ATTRIBUTES)


def build_ca_request_info(common_name: str, organization: str, spki: bytes) -> bytes:
    """Build the CertificationRequestInfo of a CA that issues to devices and to no other CA, in DER.

    It asks for what such a CA needs (RFC 5280, sections 4.2.1.9 and 4.2.1.3): basicConstraints CA:TRUE with
    pathLenConstraint 0, keyUsage keyCertSign and cRLSign. Whoever signs it decides.

    Args:
        common_name: 1 to 64 characters.
        organization: the same, or "" for none.
        spki: the CA's public key.
    """
    names = {"organization_name": organization} if organization else {}
    extensions = [
        extension(
            "basic_constraints",
            asn1_x509.BasicConstraints({"ca": True, "path_len_constraint": 0}),
            critical=True,
        ),
        extension("key_usage", asn1_x509.KeyUsage({"key_cert_sign", "crl_sign"}), critical=True),
    ]
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": asn1_x509.Name.build({**names, "common_name": common_name}),
            "subject_pk_info": keys.PublicKeyInfo.load(spki),
            "attributes": csr.CRIAttributes(
                [
                    {
                        "type": "extension_request",
                        "values": csr.SetOfExtensions([asn1_x509.Extensions(extensions)]),
                    }
                ]
            ),
        }
    )
    encoded: bytes = info.dump()
    return encoded
