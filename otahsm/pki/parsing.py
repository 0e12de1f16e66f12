"""What `cryptography` reads of X.509, and what it raises for what is not X.509."""

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


def crl_url_in(certificate: bytes) -> str | None:
    """Return the (first) URL of the CRL that a certificate states; None if it states none.

    Raises:
        ValueError: it can't be read.
    """
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        return url_in(extensions.get_extension_for_class(x509.CRLDistributionPoints).value)
    except x509.ExtensionNotFound:
        return None
    except PARSE_ERRORS as error:
        raise ValueError("can't read the certificate") from error


def url_in(points: x509.CRLDistributionPoints | x509.IssuingDistributionPoint) -> str | None:
    """Return the first URL of one of the two extensions that `cryptography` has read, if it has any."""
    each = points if isinstance(points, x509.CRLDistributionPoints) else [points]
    names = [name for point in each for name in point.full_name or ()]
    return next((name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)), None)
