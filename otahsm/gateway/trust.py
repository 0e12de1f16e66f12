"""Finds the gateway's address and CA: in files, or from the gateway itself.

A CA that the gateway presents is worth nothing by itself: whoever is in between presents another. So it is
taken only if something else says that it is the right one: a CA that is known, a fingerprint, or a person who
takes the risk in so many words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from otahsm.errors import ConfigError, GatewayUntrustedError
from otahsm.gateway.credentials import read_credentials
from otahsm.gateway.presented import PATIENCE_SECONDS, check_chain, fetch_chain
from otahsm.gateway.server_ca import ServerCa, read_pem
from otahsm.gateway.url import GatewayUrl, parse_gateway_url
from otahsm.pki.anchor import (
    ancestors,
    describe_left_out,
    fingerprint_text,
    is_root,
    is_valid,
    issuer_of,
    load_certificates,
    name_of,
)

_FINGERPRINT: Final = re.compile(r"(?:sha-?256[:=])?((?:[0-9a-f]{2}:?){32})", re.IGNORECASE)
_NO_ROOT_HINT: Final = (
    "It does not present its root: get the root's certificate from the gateway's operator, and give it with"
    " --ca."
)


@dataclass(frozen=True, slots=True)
class Trust:
    """What says that a CA is the gateway's; at most one of them.

    Attributes:
        fingerprint: SHA-256 of the CA, or of a certificate below it, as `sha256:` and hexadecimal digits.
        authorities: a PEM file with the CA; it may hold others too.
        first_use: nothing but the gateway itself.
    """

    fingerprint: str | None = None
    authorities: Path | None = None
    first_use: bool = False

    @property
    def is_given(self) -> bool:
        """Return whether there is anything."""
        return self.first_use or self.fingerprint is not None or self.authorities is not None


@dataclass(frozen=True, slots=True)
class Gateway:
    """What was found.

    Attributes:
        url: where devices connect to.
        ca: its CA; None if it was not found.
        stays_here: what was beside them and no device may have, by name.
        connected: the gateway was asked, and presents a chain that devices with this CA take.
    """

    url: GatewayUrl
    ca: ServerCa | None
    stays_here: tuple[str, ...]
    connected: bool


def find_gateway(
    now: datetime,
    *,
    credentials: Path | None = None,
    url: str | None = None,
    trust: Trust,
    connect: bool = False,
    seconds: float = PATIENCE_SECONDS,
) -> Gateway:
    """Find the gateway's address and CA.

    Args:
        now: certificates must be valid then.
        credentials: a credentials.zip.
        url: the address, if it is another than in `credentials`, or there is none.
        trust: what says that a CA is the gateway's; if it is not given, the CA in `credentials` does.
        connect: ask the gateway also if all is in `credentials`.
        seconds: the longest time to wait for the gateway; see `fetch_chain`.

    Raises:
        ConfigError: a file or an option is wrong, or nothing says which CA is the gateway's.
        GatewayUnavailableError: the gateway can't be reached.
        GatewayUntrustedError: what it presents is not what it should be.
    """
    archive = None if credentials is None else read_credentials(credentials, now)
    if url is not None:
        address = parse_gateway_url(url, "--url")
    elif archive is not None:
        address = archive.url
    else:
        raise ConfigError("there is no gateway", hint="Give --credentials, or --url.")
    ca = archive.ca if archive is not None else None
    connected = trust.is_given or connect or url is not None
    if connected:
        ca = _ask(address, trust, ca, now, seconds)
    return Gateway(address, ca, archive.stays_here if archive is not None else (), connected)


def _ask(
    address: GatewayUrl, trust: Trust, known: ServerCa | None, now: datetime, seconds: float
) -> ServerCa:
    """Read the gateway's chain, and return the trusted CA that it ends in."""
    fingerprint = None if trust.fingerprint is None else _parse_fingerprint(trust.fingerprint)
    if trust.authorities is not None:
        source = str(trust.authorities)
        authorities = load_certificates(read_pem(trust.authorities), source)
        return _verify_under(address, fetch_chain(address, seconds), authorities, now, source)
    if trust.is_given:
        return _take_root(address, fetch_chain(address, seconds), fingerprint, now)
    if known is None:
        raise ConfigError(
            f"nothing says which CA is that of {address.endpoint}",
            hint="Give its fingerprint (--fingerprint), a file that has it (--ca), or a credentials.zip with"
            " it; or take what comes, with --trust-on-first-use.",
        )
    _verify_under(address, fetch_chain(address, seconds), [known.certificate], now, known.source)
    return known


def _verify_under(
    url: GatewayUrl,
    chain: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now: datetime,
    source: str,
) -> ServerCa:
    """Find the one of our roots that the gateway is under. Raises ConfigError and GatewayUntrustedError."""
    roots = [certificate for certificate in authorities if is_root(certificate)]
    if not any(is_valid(root, now) for root in roots):
        ServerCa.choose(authorities, now, source)  # says what is wrong with them
    above = [root for root in ancestors(chain[0], [*chain[1:], *authorities]) if root in roots]
    if not above:
        ours = ", ".join(f"{name_of(root)} ({fingerprint_text(root)})" for root in roots[:3])
        raise GatewayUntrustedError(
            f"{url.endpoint} is not under the CA in {source}, {ours}{' ...' if roots[3:] else ''}, but under"
            f" {_top(chain)}"
        )
    root = max(above, key=lambda one: (is_valid(one, now), one.not_valid_after_utc))
    check_chain(url, chain, root, now)
    return ServerCa(root, source, _some(describe_left_out(authorities, root, now)))


def _take_root(
    url: GatewayUrl, chain: Sequence[x509.Certificate], fingerprint: str | None, now: datetime
) -> ServerCa:
    """Take the root that the gateway presents, if it or one below has the fingerprint that is expected.

    Only its own certificate and what signed that count: anybody can present the expected one beside them.
    """
    path = list(dict.fromkeys([chain[0], *ancestors(chain[0], chain)]))
    expected = [certificate for certificate in path if fingerprint_text(certificate) == fingerprint]
    if fingerprint is not None and not expected:
        raise GatewayUntrustedError(
            f"{url.endpoint} is not what was expected: none of the certificates that it presents has the"
            f" fingerprint {fingerprint}, but they have "
            + ", ".join(f"{fingerprint_text(one)} ({name_of(one)})" for one in reversed(path)),
            hint=None if any(map(is_root, path)) else _NO_ROOT_HINT,
        )
    roots = [one for one in expected if is_root(one)] or [one for one in path if is_root(one)]
    if not roots:
        raise GatewayUntrustedError(
            f"{url.endpoint} presents no root: at the top is {_top(chain)}",
            hint=_NO_ROOT_HINT,
        )
    root = max(roots, key=lambda one: (is_valid(one, now), one.not_valid_after_utc))
    check_chain(url, chain, root, now)
    source = f"presented by {url.endpoint}"
    return ServerCa(
        root,
        f"{source}, trusted on first use" if fingerprint is None else f"{source}, as the fingerprint says",
        describe_left_out(chain, root, now),
    )


def _top(chain: Sequence[x509.Certificate]) -> str:
    """Name the last certificate of a chain, and its issuer if that is another."""
    top = chain[-1]
    issuer = "" if is_root(top) else f", issued by {issuer_of(top)}"
    return f"{name_of(top)} ({fingerprint_text(top)}){issuer}"


def _some(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Shorten what would be the whole list of a system's CAs."""
    few = 8
    return lines if len(lines) <= few else (*lines[:few], f"and {len(lines) - few} more")


def _parse_fingerprint(text: str) -> str:
    match = _FINGERPRINT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            "--fingerprint is no SHA-256 fingerprint",
            hint="It is sha256: and 64 hexadecimal digits, as `otahsm gateway show` and openssl print it.",
        )
    return f"sha256:{match[1].replace(':', '').lower()}"
