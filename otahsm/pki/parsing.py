"""What `cryptography` raises for X.509 that is not what it should be."""

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

PARSE_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
