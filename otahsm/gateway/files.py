"""The gateway's files for devices: root.crt and gateway.url."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from otahsm.config import ClientConfig
from otahsm.errors import ConfigError, FolderError
from otahsm.gateway.credentials import read_credentials
from otahsm.gateway.server_ca import ServerCa, read_pem
from otahsm.gateway.url import GatewayUrl, parse_gateway_url
from otahsm.pki.anchor import is_valid, load_certificates
from otahsm.system.durable import explained, make_folder, replace_files


@dataclass(frozen=True, slots=True)
class GatewayFiles:
    """The gateway's files for device folders.

    Attributes:
        url: the content of gateway.url; None if unknown.
        ca: the content of root.crt, in PEM; None if unknown.
        ca_path: the path of that file on this machine, if there is one.
    """

    url: str | None
    ca: bytes | None
    ca_path: Path | None


def gateway_files(config: ClientConfig, now: datetime) -> GatewayFiles | None:
    """Read the gateway's files that the [client] section names, without connecting to it.

    From `credentials`, the CA is the one root (see `read_credentials`). `server_ca` is used unchanged: it may
    contain two CAs, during a rollover.

    Args:
        config: the section.
        now: the time at which the CA must be valid; of several in `server_ca`, at least one.

    Returns:
        None if the section configures no gateway.

    Raises:
        ConfigError: a file can't be read, or its content is invalid.
    """
    if config.credentials is not None:
        found = read_credentials(config.credentials, now)
        if found.ca is None:
            raise ConfigError(
                f"{config.credentials} doesn't contain the gateway's CA",
                hint="Fetch it (`otahsm gateway fetch --help`), and set gateway_url and server_ca instead.",
            )
        return GatewayFiles(str(found.url), found.ca.pem, None)
    if config.gateway_url is None and config.server_ca is None:
        return None
    url = ca = None
    if config.gateway_url is not None:
        url = str(parse_gateway_url(config.gateway_url, "[client] gateway_url"))
    if config.server_ca is not None:
        ca = _read_server_ca(config.server_ca, now)
    return GatewayFiles(url, ca, config.server_ca)


def write_gateway(folder: Path, url: GatewayUrl, ca: ServerCa, *, replace: bool) -> list[Path]:
    """Write root.crt and gateway.url, durably and atomically.

    Args:
        folder: the folder; it is created if it does not exist.
        url: the content of gateway.url.
        ca: the content of root.crt.
        replace: whether to replace files with other content.

    Returns:
        The files that were written, without those that existed with the same content.

    Raises:
        FolderError: a file has other content, and nothing was written; or a file can't be written.
    """
    contents = {folder / "root.crt": ca.pem, folder / "gateway.url": str(url).encode()}
    with explained():
        make_folder(folder)
        missing = {path: new for path, new in contents.items() if not _holds(path, new)}
        others = [path.name for path in missing if path.exists() or path.is_symlink()]
        if others and not replace:
            raise FolderError(
                f"{' and '.join(others)} in {folder} already exists with other content; nothing was written",
                hint="If the gateway has moved or has a new CA, add --replace; or choose another --out.",
            )
        replace_files(missing)
    return list(missing)


def _holds(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def _read_server_ca(path: Path, now: datetime) -> bytes:
    content = read_pem(path)
    certificates = load_certificates(content, str(path))
    if not any(is_valid(certificate, now) for certificate in certificates):
        ServerCa.choose(certificates, now, str(path))
        raise ConfigError(f"no certificate in {path} is valid now", hint="Get the gateway's current CA.")
    return content
