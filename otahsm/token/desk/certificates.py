"""Certificates of devices, under the profiles of the mandate."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from typing import Final

from otahsm.errors import (
    AuthorityUnusableError,
    RequestRefusedError,
    SigningLateError,
    SigningRefusedError,
)
from otahsm.pki.keytypes.spki import type_of_spki
from otahsm.pki.names import check_device_id
from otahsm.pki.serial import is_made
from otahsm.pki.template import ProfileTemplate, Terms
from otahsm.token.desk.codec import CertificateToSign
from otahsm.token.setup import Mandate

AHEAD_OR_BEHIND: Final = timedelta(minutes=10)
"""How far the time of a serial number may be from the signer's."""

_MILLISECONDS: Final = AHEAD_OR_BEHIND // timedelta(milliseconds=1)


class Certificates:
    """Builds the certificates that the key of a CA signs.

    All that they hold is of the mandate, but for the device's id, its key, what the profile's subject asks
    for, and the serial number, from which validity and CRL follow.

    Args:
        mandate: what may be signed.
    """

    def __init__(self, mandate: Mandate) -> None:
        self._templates = {
            name: ProfileTemplate(Terms(item.profile, mandate.authorities[item.authority].issuer, item.crls))
            for name, item in mandate.profiles.items()
        }

    def build(self, profile: str, item: CertificateToSign, now: int) -> bytes:
        """Return the TBSCertificate of a device, in DER, after looking at everything that it is built of.

        Args:
            profile: the name of its profile.
            item: what it has of its own.
            now: the time, in milliseconds since the Unix epoch.

        Raises:
            SigningRefusedError: the profile or the device is not of the mandate, the serial number is not one
                of `make_serial` or not of now, or another TBS was journalled.
        """
        template = self._templates.get(profile)
        if template is None:
            raise SigningRefusedError(f"there is no profile {profile[:64]!a}")
        serial, (device_id, spki), attributes, tbs_sha256 = item
        if not is_made(serial):
            raise SigningRefusedError(f"{serial.hex()} is not a serial number as the daemon makes them")
        if abs(serial.milliseconds - now) > _MILLISECONDS:
            raise SigningLateError(
                f"the time in the serial number {serial.hex()} is more than 10 minutes from this clock's"
            )
        allowed = template.terms.profile
        try:
            check_device_id(device_id, allowed.device_id)
            if type_of_spki(spki) not in allowed.key_types:
                raise SigningRefusedError(f"the key of {device_id} is not one that the profile allows")
            tbs = template.fill(serial, item.binding, attributes)
        except (RequestRefusedError, AuthorityUnusableError) as error:
            raise SigningRefusedError(error.message) from None
        if sha256(tbs).digest() != tbs_sha256:
            raise SigningRefusedError(
                f"the certificate {serial.hex()} of {device_id} would not be the one that was journalled"
            )
        return tbs
