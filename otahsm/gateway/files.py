"""The files that devices get of the gateway: root.crt and gateway.url."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from otahsm.config import ClientConfig
from otahsm.errors import ConfigError, FolderError
from otahsm.gateway.credentials import read_credentials
from otahsm.gateway.server_ca import ServerCa, read_pem
from otahsm.gateway.url import GatewayUrl, parse_gateway_url
from otahsm.pki import is_valid, load_certificates
from otahsm.system.durable import explained, make_folder, replace_files


@dataclass(frozen=True, slots=True)
class GatewayFiles:
    """What device folders get of the gateway.

    Attributes:
        url: the content of gateway.url; None if it is not known.
        ca: the content of root.crt, PEM; None if it is not known.
        ca_path: where that is on this machine, if it is a file of its own.
    """

    url: str | None
    ca: bytes | None
    ca_path: Path | None


def gateway_files(config: ClientConfig, now: datetime) -> GatewayFiles | None:
    """Read what the [client] section says of the gateway; nobody is connected to.

    Of `credentials` it is the one root (see `read_credentials`). `server_ca` is taken as it is: a file with
    two CAs, for the time in which one follows the other, is the operator's to make.

    Args:
        config: the section.
        now: the CA must be valid then; of several in `server_ca`, one.

    Returns:
        None if the section says nothing of a gateway.

    Raises:
        ConfigError: a file can't be read, or what is in it can't be used.
    """
    if config.credentials is not None:
        found = read_credentials(config.credentials, now)
        if found.ca is None:
            raise ConfigError(
                f"{config.credentials} has no CA of the gateway in it",
                hint="Fetch it (`otahsm gateway fetch --help`), and name gateway_url and server_ca instead.",
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
    """Write root.crt and gateway.url, each whole and durable or not at all.

    Args:
        folder: where; it is made if it is not there.
        url: what gateway.url holds.
        ca: what root.crt holds.
        replace: whether files that hold something else are replaced.

    Returns:
        Those that were written, and were not there already.

    Raises:
        FolderError: there is something else, and nothing was written; or the disk is full, say.
    """
    contents = {folder / "root.crt": ca.pem, folder / "gateway.url": str(url).encode()}
    with explained():
        make_folder(folder)
        missing = {path: new for path, new in contents.items() if not _holds(path, new)}
        others = [path.name for path in missing if path.exists() or path.is_symlink()]
        if others and not replace:
            raise FolderError(
                f"{' and '.join(others)} in {folder} held something else; nothing was written",
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
        raise ConfigError(f"no certificate in {path} is valid now", hint="Get the gateway's present CA.")
    return content
