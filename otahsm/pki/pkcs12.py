"""Reads the CA certificates of a PKCS#12 file (RFC 7292), and nothing else of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Final

from asn1crypto import pkcs12 as asn1_pkcs12
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from otahsm.errors import ConfigError
from otahsm.pki.anchor import read_through
from otahsm.pki.parsing import PARSE_ERRORS

_MAX_ITERATIONS: Final = 1_000_000
# What asn1crypto raises, on top of ValueError and TypeError, for bytes that it takes for something else.
_DECODE_ERRORS: Final = (AttributeError, LookupError, OverflowError, RecursionError)


def load_p12_authorities(content: bytes, source: str) -> list[x509.Certificate]:
    """Read the certificates beside the one that belongs to the file's private key.

    Args:
        content: the file, whose password is empty.
        source: where it is, for errors.

    Raises:
        ConfigError: it is no such file; or it has its password hashed so often that it would take minutes.
    """
    try:
        if max(_iterations(content), default=0) > _MAX_ITERATIONS:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            # The key, and the certificate that belongs to it, are forgotten at once.
            certificates = list(dict.fromkeys(pkcs12.load_key_and_certificates(content, b"")[2]))
            for certificate in certificates:
                read_through(certificate)
    except (*PARSE_ERRORS, *_DECODE_ERRORS):
        raise ConfigError(
            f"{source} is not a PKCS#12 file with an empty password",
            hint="Download the archive again, or name the gateway's CA with --ca.",
        ) from None
    return certificates


def _iterations(content: bytes) -> Iterator[int]:
    """Find how often a file's password is hashed, as far as it shows without the password."""
    file = asn1_pkcs12.Pfx.load(content)
    if file["mac_data"].native is not None:
        yield file["mac_data"]["iterations"].native
    for part in file.authenticated_safe:
        if part["content_type"].native == "encrypted_data":
            yield part["content"]["encrypted_content_info"]["content_encryption_algorithm"].kdf_iterations
        elif part["content_type"].native == "data":
            for bag in asn1_pkcs12.SafeContents.load(part["content"].native):
                if bag["bag_id"].native == "pkcs8_shrouded_key_bag":
                    yield bag["bag_value"]["encryption_algorithm"].kdf_iterations
