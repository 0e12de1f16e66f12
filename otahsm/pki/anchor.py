"""Finds the root among certificates that came in one file, or that a server presents."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from otahsm.errors import ConfigError
from otahsm.pki.chain import find_extension, signed
from otahsm.pki.parsing import PARSE_ERRORS


@dataclass(frozen=True, slots=True)
class Anchor:
    """A root that was chosen, and what came with it.

    Attributes:
        certificate: a CA that signed itself.
        left_out: each of the others, by subject, with the reason in words.
    """

    certificate: x509.Certificate
    left_out: tuple[str, ...]


def load_certificates(pem: bytes, source: str) -> list[x509.Certificate]:
    """Read PEM certificates, each once, whatever else is in the text.

    Raises:
        ConfigError: there are none, or one can't be read; the message names `source`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what RFC 5280 forbids and others still issue
            certificates = list(dict.fromkeys(x509.load_pem_x509_certificates(pem)))
            for certificate in certificates:
                read_through(certificate)
    except PARSE_ERRORS:
        raise ConfigError(
            f"{source} contains no readable PEM certificate",
            hint="It must contain the gateway's CA, from -----BEGIN CERTIFICATE----- to the last line.",
        ) from None
    return certificates


def read_through(certificate: x509.Certificate) -> None:
    """Read what is otherwise read when it is first asked for. Raises PARSE_ERRORS."""
    certificate.subject.rfc4514_string()
    certificate.issuer.rfc4514_string()
    certificate.public_key()
    find_extension(certificate, x509.BasicConstraints)


def choose_anchor(certificates: Sequence[x509.Certificate], now: datetime, source: str) -> Anchor:
    """Choose the root that the others are below, or the only one that is valid.

    Of several certificates of one root, with one name and one key, choose the one that expires last.

    Raises:
        ConfigError: there is no root, none is valid now, or the choice is ambiguous; it names `source`.
    """
    roots = [certificate for certificate in certificates if is_root(certificate)]
    if not roots:
        raise _no_root(certificates, source)
    above = [ancestors(one, certificates) for one in certificates if one not in roots]
    used = [root for root in roots if any(root in them for them in above)] or roots
    valid = [root for root in used if is_valid(root, now)]
    if not valid:
        raise ConfigError(
            f"{source}: " + "; ".join(f"{name_of(root)} {dates_of(root)}, and not now" for root in used),
            hint="Get the gateway's current CA certificate; or set this machine's clock, if it is wrong.",
        )
    chosen = max(valid, key=lambda root: root.not_valid_after_utc)
    rivals = [root for root in valid if not _is_same_authority(root, chosen)]
    if rivals:
        names = ", ".join(f"{name_of(root)} ({fingerprint_text(root)})" for root in (chosen, *rivals))
        raise ConfigError(
            f"{source} contains several roots, and it is not clear which is the gateway's: {names}",
            hint="Keep only that one in the file; `otahsm gateway show --url URL` shows it.",
        )
    return Anchor(chosen, describe_left_out(certificates, chosen, now))


def ancestors(certificate: x509.Certificate, others: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    """Return those of `others` that are above a certificate: its issuers, theirs, and so on."""
    pool, found = [one for one in others if is_ca(one)], [certificate]
    for child in found:  # it grows
        found += [one for one in pool if one not in found and signed(one, child)]
    return found[1:]


def is_root(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is a CA that signed itself."""
    return is_ca(certificate) and signed(certificate, certificate)


def is_ca(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is a CA (RFC 5280, section 4.2.1.9), by a critical extension or not."""
    constraints = find_extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    """Return whether a certificate is valid `now` (RFC 5280, section 4.1.2.5)."""
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def describe_left_out(
    certificates: Iterable[x509.Certificate], chosen: x509.Certificate, now: datetime
) -> tuple[str, ...]:
    """Return a description of each certificate except the chosen one."""
    return tuple(f"{name_of(one)}: {_what(one, now)}" for one in dict.fromkeys(certificates) if one != chosen)


def name_of(certificate: x509.Certificate) -> str:
    """Return the subject as text (RFC 4514), on which no character moves a terminal's cursor."""
    return _text(certificate.subject) or "a certificate without a name"


def issuer_of(certificate: x509.Certificate) -> str:
    """Return the issuer's name as text, as `name_of` does."""
    return _text(certificate.issuer) or "an issuer without a name"


def fingerprint_text(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, as `sha256:` and hexadecimal digits."""
    return f"sha256:{certificate.fingerprint(SHA256()).hex()}"


def dates_of(certificate: x509.Certificate) -> str:
    """Return the period of validity as text."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def _text(name: x509.Name) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name.rfc4514_string())


def _what(certificate: x509.Certificate, now: datetime) -> str:
    kind = "another root" if is_root(certificate) else "an intermediate CA" if is_ca(certificate) else "no CA"
    return kind if is_valid(certificate, now) else f"{kind}, {dates_of(certificate)}"


def _is_same_authority(one: x509.Certificate, other: x509.Certificate) -> bool:
    return one.subject == other.subject and one.public_key() == other.public_key()


def _no_root(certificates: Sequence[x509.Certificate], source: str) -> ConfigError:
    for certificate in certificates:
        if is_ca(certificate):
            return ConfigError(
                f"{source} contains no root: {name_of(certificate)} is an intermediate CA, and the"
                f" certificate of {issuer_of(certificate)} above it is missing",
                hint="Get the root's certificate from the gateway's operator, and name it with --ca.",
            )
    names = ", ".join(map(name_of, certificates)) or "nothing"
    return ConfigError(
        f"{source} contains no CA certificate (basicConstraints with CA:TRUE), but {names}",
        hint="Get the CA's certificate from the gateway's operator, and name it with --ca.",
    )
