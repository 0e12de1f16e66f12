"""Orders the certificates of an external PKI, and checks that verifiers accept devices under them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from otahsm.errors import ConfigError
from otahsm.pki.chain import Chain, find_extension, signed


def order_bundle(files: Mapping[str, bytes]) -> bytes:
    """Order certificates: the signing CA first, each certificate's issuer after it, the root last.

    Args:
        files: PEM by name, each with one certificate or more, in any order; the same one may come twice.

    Returns:
        PEM, as `load_chain` takes it.

    Raises:
        ConfigError: the certificates are not a single chain up to a self-signed root.
    """
    certificates: dict[bytes, x509.Certificate] = {}
    for name, file in files.items():
        try:
            for certificate in x509.load_pem_x509_certificates(file):
                certificates[certificate.public_bytes(Encoding.DER)] = certificate
        except ValueError:
            raise ConfigError(f"{name} contains no readable PEM certificate") from None
    everyone = list(certificates.values())
    lowest = [
        one for one in everyone if not any(signed(one, other) for other in everyone if other is not one)
    ]
    if len(lowest) != 1:
        names = ", ".join(one.subject.rfc4514_string() for one in lowest) or "none"
        raise ConfigError(
            f"the files must form one chain with one lowest certificate, not {len(lowest)}: {names}"
        )
    chain = lowest
    while not signed(chain[-1], chain[-1]):
        above = [one for one in everyone if one not in chain and signed(one, chain[-1])]
        if not above:
            raise ConfigError(
                f"the certificate of {chain[-1].issuer.rfc4514_string()} is missing, which signed"
                f" {chain[-1].subject.rfc4514_string()}",
                hint="Name the files of all certificates up to the self-signed root.",
            )
        chain.append(above[0])
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def find_chain_problems(chain: Chain, now: datetime) -> list[str]:
    """Return what keeps verifiers such as OpenSSL from accepting devices under a chain.

    Returns:
        A sentence for each problem.
    """
    problems = []
    for certificate, below in _with_cas_below(chain):
        name = certificate.subject.rfc4514_string()
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            problems.append(
                f"{name} is not valid now, but from {certificate.not_valid_before_utc:%Y-%m-%d} to"
                f" {certificate.not_valid_after_utc:%Y-%m-%d}"
            )
        limit = _path_length(certificate)
        if limit is not None and limit < below:
            problems.append(f"{name} allows {limit} CAs below it (pathLenConstraint), but has {below}")
        usage = find_extension(certificate, x509.ExtendedKeyUsage)
        good = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if usage is not None and good.isdisjoint(usage):
            problems.append(
                f"{name} has an extendedKeyUsage without clientAuth: OpenSSL, and so nginx, refuses every"
                " device under it"
            )
    return problems


def allows_cas(chain: Chain) -> bool:
    """Return whether verifiers accept CAs below the one that signs, and its own certificate sets no limit.

    Then whoever gets a single signature of its key can make a CA, and with that any number of devices.
    """
    (issuer, _), *above = _with_cas_below(chain)
    limits = ((_path_length(certificate), below) for certificate, below in above)
    return _path_length(issuer) is None and all(limit is None or limit > below for limit, below in limits)


def _with_cas_below(chain: Chain) -> Iterator[tuple[x509.Certificate, int]]:
    """Yield each certificate of a chain, and how many below it count for its pathLenConstraint.

    Those that name themselves as issuer, such as a root's link certificate, don't count: RFC 5280, section
    4.2.1.9.
    """
    below = 0
    for certificate in map(x509.load_der_x509_certificate, chain.certificates):
        yield certificate, below
        below += certificate.subject != certificate.issuer


def _path_length(certificate: x509.Certificate) -> int | None:
    constraints = find_extension(certificate, x509.BasicConstraints)
    return constraints.path_length if constraints else None
