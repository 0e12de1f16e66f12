"""The gateway's address, as users write it and as aktualizr needs it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from otahsm.errors import ConfigError

PORT_OF_THE_GUIDE: Final = 8000
_PORT_OF_HTTPS: Final = 443
_LAST_PORT: Final = 65535
# It can't contain an option or a second word of a command, or a secret (user:password@).
_URL: Final = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)\.?"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9._~-]*)*)"
)


@dataclass(frozen=True, slots=True)
class GatewayUrl:
    """The address that devices connect to.

    Attributes:
        host: a name in lower case, or an IP address without brackets.
        port: 1 to 65535.
        path: the prefix of all paths that devices request; "" or such as "/api/v0".
    """

    host: str
    port: int
    path: str = ""

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address, which is not sent as SNI (RFC 6066, section 3)."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def endpoint(self) -> str:
        """`host:port`, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """Return the content of `gateway.url`.

        aktualizr appends "/director" and similar paths, and passes the result to libcurl. So it has a scheme,
        keeps its path, and has no trailing slash.
        """
        return f"https://{self.endpoint}{self.path}"


def parse_gateway_url(text: str, source: str) -> GatewayUrl:
    """Parse a gateway's address: host, host:port or an https URL, with optional white space and BOM.

    The default port is 8000 without a scheme, as in the OTA Connect guide, and 443 with one.

    Args:
        text: the address.
        source: its source, for errors. They don't repeat the text, since it might contain a password.

    Raises:
        ConfigError: it is invalid.
    """
    match = _URL.fullmatch(text.removeprefix("\ufeff").strip())
    if match is None:
        raise _wrong(source, "it is not a host, host:port or URL")
    if (match["scheme"] or "https").lower() != "https":
        raise _wrong(source, "its scheme must be https, since devices authenticate in TLS")
    port = int(match["port"]) if match["port"] else _PORT_OF_HTTPS if match["scheme"] else PORT_OF_THE_GUIDE
    if not 1 <= port <= _LAST_PORT:
        raise _wrong(source, f"its port is not between 1 and {_LAST_PORT}")
    host = match["host"].lower()
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _wrong(source, "the address in its brackets is not an IPv6 address") from None
    return GatewayUrl(host, port, match["path"].rstrip("/"))


def _wrong(source: str, reason: str) -> ConfigError:
    return ConfigError(
        f"the gateway's address in {source} is invalid: {reason}",
        hint="Write it as https://gateway.example.com:8000; write names that are not ASCII as xn--...",
    )
