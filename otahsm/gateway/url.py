"""The gateway's address, as a person writes it and as aktualizr needs it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from otahsm.errors import ConfigError

PORT_OF_THE_GUIDE: Final = 8000
_PORT_OF_HTTPS: Final = 443
_LAST_PORT: Final = 65535
# Nothing in it can be an option or a second word of a command, or a secret (user:password@).
_URL: Final = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)\.?"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9._~-]*)*)"
)


@dataclass(frozen=True, slots=True)
class GatewayUrl:
    """Where devices connect to.

    Attributes:
        host: a name in lower case, or an IP address without brackets.
        port: 1 to 65535.
        path: what stands before every path that a device asks for; "" or as in "/api/v0".
    """

    host: str
    port: int
    path: str = ""

    @property
    def is_address(self) -> bool:
        """Return whether the host is an IP address: it has no name to send in TLS (RFC 6066, section 3)."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def endpoint(self) -> str:
        """Return host:port, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """Return what `gateway.url` holds.

        aktualizr puts "/director" and the like behind it, and gives that to libcurl: so it needs a scheme,
        keeps its path, and ends without a slash.
        """
        return f"https://{self.endpoint}{self.path}"


def parse_gateway_url(text: str, source: str) -> GatewayUrl:
    """Read a gateway's address: host, host:port or an https URL, with white space and a BOM around it.

    Without a scheme the port is 8000, the OTA Connect guide's; with one it is 443, as everywhere.

    Args:
        text: the address.
        source: where it stands, for errors. They don't repeat the text: it might hold a password.

    Raises:
        ConfigError: it is no such address.
    """
    match = _URL.fullmatch(text.removeprefix("\ufeff").strip())
    if match is None:
        raise _wrong(source, "it is no host, host:port or URL")
    if (match["scheme"] or "https").lower() != "https":
        raise _wrong(source, "devices prove who they are in TLS, so its scheme must be https")
    port = int(match["port"]) if match["port"] else _PORT_OF_HTTPS if match["scheme"] else PORT_OF_THE_GUIDE
    if not 1 <= port <= _LAST_PORT:
        raise _wrong(source, f"its port is not between 1 and {_LAST_PORT}")
    host = match["host"].lower()
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _wrong(source, "what is in its brackets is no IPv6 address") from None
    return GatewayUrl(host, port, match["path"].rstrip("/"))


def _wrong(source: str, reason: str) -> ConfigError:
    return ConfigError(
        f"the gateway's address in {source} is wrong: {reason}",
        hint="It looks like https://gateway.example.com:8000; a name that is not ASCII is written as xn--...",
    )
