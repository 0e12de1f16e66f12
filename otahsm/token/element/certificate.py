"""The certificate object in a device's own secure element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pkcs11
from cryptography import x509
from cryptography.x509.oid import NameOID
from pkcs11 import Attribute, ObjectClass
from pkcs11.util.x509 import decode_x509_certificate

from otahsm.errors import TokenRefusedError
from otahsm.pki.keytypes import PublicKey
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.parsing import PARSE_ERRORS
from otahsm.token.element.opening import explained


@dataclass(frozen=True, slots=True)
class CertificatePlace:
    """Where a token keeps a device's certificate.

    Attributes:
        session: read-write, and logged in.
        device_id: whom the certificate is for.
        object_id: its CKA_ID.
        label: the CKA_LABEL of a new one.
    """

    session: pkcs11.Session
    device_id: str
    object_id: bytes
    label: str

    def refuse_others(self, public_key: PublicKey | None) -> None:
        """Make sure that no certificate is here of another device or another key.

        Args:
            public_key: the device's; None if it has no key yet.

        Raises:
            TokenRefusedError: there is one.
            PKCS11Error: the token failed.
        """
        for found in self._find():
            der = _value(found)
            if public_key is None or not _belongs(der, public_key, self.device_id):
                raise TokenRefusedError(
                    f"the token holds a certificate with id {self.object_id.hex()} for another device or"
                    f" another key ({_describe(der)}); nothing was changed",
                    hint="Check that this is the right device. --replace overwrites the certificate, and"
                    " --certificate-id names another id. A key that has a certificate for one device id can't"
                    " get one for another.",
                )

    def write(self, public_key: PublicKey, der: bytes) -> bool:
        """Put the certificate here, once; read it back and compare it.

        What else is here is destroyed first: some tokens have one place for an id.

        Returns:
            Whether it was written; else it was here.

        Raises:
            TokenRefusedError: it is not of the key and the device, or the token didn't keep it as it is.
            TokenUnavailableError: the token failed.
        """
        if not _belongs(der, public_key, self.device_id):
            raise TokenRefusedError(
                "the issued certificate is not for the key in the token, so it was not written",
                hint="This is a bug in otahsm: please report it with the daemon's log.",
            )
        with explained("writing the certificate"):
            was_here = self._leave_only(der)
            if not was_here:
                self.session.create_object(
                    {
                        **decode_x509_certificate(der),
                        Attribute.TOKEN: True,
                        Attribute.PRIVATE: False,
                        Attribute.ID: self.object_id,
                        Attribute.LABEL: self.label,
                    }
                )
        with explained("reading the certificate back"):
            kept = [_value(found) for found in self._find()]
        if kept != [der]:
            raise TokenRefusedError(
                f"after writing one certificate with id {self.object_id.hex()}, the token shows {len(kept)},"
                f" {'including' if der in kept else 'but not'} the one that was written",
                hint="Inspect the token with pkcs11-tool --list-objects, or try another --certificate-id.",
            )
        return not was_here

    def _leave_only(self, der: bytes) -> bool:
        """Destroy all certificates here except one that equals `der`; return whether there is one."""
        there = False
        for found in self._find():
            if not there and _value(found) == der:
                there = True
            else:
                found.destroy()
        return there

    def _find(self) -> Sequence[Any]:
        template = {Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.ID: self.object_id}
        return list(self.session.get_objects(template))


def _value(certificate: Any) -> bytes:
    """Return a certificate object's DER; nothing if it only says where the certificate is."""
    try:
        return bytes(certificate[Attribute.VALUE])
    except pkcs11.AttributeTypeInvalid:
        return b""


def _belongs(der: bytes, public_key: PublicKey, device_id: str) -> bool:
    try:
        certificate = x509.load_der_x509_certificate(der)
        spki = encode_spki(certificate.public_key())
        names = list(_common_names(certificate))
    except PARSE_ERRORS:
        return False
    return spki == encode_spki(public_key) and names == [device_id]


def _describe(der: bytes) -> str:
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = ", ".join(map(repr, _common_names(certificate)))
        return f"it is for {names or 'nobody'}, by {certificate.issuer.rfc4514_string()!r}"
    except PARSE_ERRORS:
        return "unreadable"


def _common_names(certificate: x509.Certificate) -> Iterator[str]:
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        yield str(attribute.value)
