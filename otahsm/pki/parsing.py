"""What `cryptography` raises for X.509 that is not what it should be."""

from __future__ import annotations

from typing import Final

from cryptography import x509

from otahsm.pki.keytypes.spki import KEY_ERRORS

PARSE_ERRORS: Final = (
    *KEY_ERRORS,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
