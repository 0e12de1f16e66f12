"""Reads from credentials.zip what a device may get: the gateway's address and CA.

| entry                                    | use                                                      |
| ---                                      | ---                                                      |
| `autoprov.url`, otherwise `autoprov`     | the gateway's address                                    |
| `server_ca.pem`                          | the gateway's CA (Community Edition)                     |
| `autoprov_credentials.p12`               | the gateway's CA, if there is no `server_ca.pem`         |
| everything else                          | stays on this machine; not read                          |

The rest contains keys and passwords of the build server and of provisioning. Since this is an allowlist, new
kinds of secrets stay here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError
from otahsm.gateway.server_ca import ServerCa
from otahsm.gateway.small_zip import SmallZip
from otahsm.gateway.url import GatewayUrl, parse_gateway_url
from otahsm.pki.pkcs12 import load_p12_authorities

_URLS: Final = ("autoprov.url", "autoprov")
_SERVER_CA: Final = "server_ca.pem"
_P12: Final = "autoprov_credentials.p12"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The contents of a credentials.zip that a device may get.

    Attributes:
        url: the gateway's address.
        ca: the gateway's CA; None if the archive has none.
        stays_here: the names of the files that devices get nothing of, except a CA certificate.
    """

    url: GatewayUrl
    ca: ServerCa | None
    stays_here: tuple[str, ...]


def read_credentials(path: Path, now: datetime) -> Credentials:
    """Read a credentials.zip.

    Args:
        path: the archive.
        now: the time at which the CA must be valid.

    Raises:
        ConfigError: it can't be read, or its content is invalid.
    """
    archive = SmallZip(path)
    url = _read_url(archive, path)
    pem = archive.read(_SERVER_CA)
    if pem is None:
        ca = _read_p12(archive.read(_P12), now, f"{path}: {_P12}")
    else:
        ca = ServerCa.read(pem, now, f"{path}: {_SERVER_CA}")
    stays = tuple(name for name in archive.names if name not in {*_URLS, _SERVER_CA})
    return Credentials(url, ca, stays)


def _read_url(archive: SmallZip, path: Path) -> GatewayUrl:
    for name in _URLS:
        content = archive.read(name)
        if content is not None:
            # Invalid UTF-8 becomes a character that no address contains.
            return parse_gateway_url(content.decode(errors="replace"), f"{path}: {name}")
    raise ConfigError(
        f"{path} has no gateway address: neither {' nor '.join(_URLS)} is in it",
        hint="Take the credentials.zip of the account that the devices belong to.",
    )


def _read_p12(content: bytes | None, now: datetime, source: str) -> ServerCa | None:
    """Choose the root among the CA certificates of a PKCS#12 file (RFC 7292); None if it has none."""
    if content is None:
        return None
    certificates = load_p12_authorities(content, source)
    return ServerCa.choose(certificates, now, source) if certificates else None
