"""From the [client] section, and options that need a client's rooms, to a client and its folders."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

# gRPC's core would write its own lines about a failed handshake to standard error, beside our message. It
# reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from otahsm.cli.settings import load_config
from otahsm.client import Client, ClientTls, IssuanceClient, Profile, load_anchors
from otahsm.config import ClientConfig, files_of_client, section
from otahsm.gateway.files import GatewayFiles, gateway_files
from otahsm.install.aktualizr import sota_toml
from otahsm.line import Device, DeviceFolders, IssueOptions, LayoutName
from otahsm.pki.keytypes import KeyType
from otahsm.system.file_modes import check_modes
from otahsm.system.tls_files import read_certificates

_Answer = TypeVar("_Answer")

DeviceKeyTypeOption = Annotated[KeyType, typer.Option("--key-type", help="The type of the devices' keys.")]
LayoutOption = Annotated[
    LayoutName,
    typer.Option(help="Device folders as in the guide, parts of an image, one flat folder, or tar archives."),
]


def load_client(path: Path) -> ClientConfig:
    """Read the [client] section. Raises ConfigError."""
    return section(load_config(path).client, "client")


def registers(path: Path) -> bool:
    """Return whether certificates are to be registered with a backend. Raises ConfigError."""
    return load_config(path).registration is not None


def connect(config: ClientConfig, patience: float | None) -> Client:
    """Open a client as the configuration says; `patience` overrides its own.

    Raises:
        ConfigError: a file can't be read or is malformed, or others can change it.
    """
    check_modes(files_of_client(config))
    return Client(
        config.target,
        ClientTls(config.ca, config.certificate, config.key),
        patience=config.patience_seconds if patience is None else patience,
        trust_anchors=[root for path in config.fleet_ca for root in _roots(path)],
    )


def _roots(path: Path) -> Sequence[bytes]:
    """Read a file of fleet roots. Raises ConfigError."""
    return load_anchors(read_certificates("[client] fleet_ca", path).certificates)


def ask(config: Path, patience: float | None, question: Callable[[Client], Awaitable[_Answer]]) -> _Answer:
    """Connect as the configuration says, ask, and return the answer. Raises OtahsmError."""
    settings = load_client(config)

    async def run() -> _Answer:
        async with connect(settings, patience) as client:
            return await question(client)

    return asyncio.run(run())


@asynccontextmanager
async def open_folders(
    client: IssuanceClient,
    config: ClientConfig,
    out: Path | None,
    layout: LayoutName = "seed",
    passphrase: bytes | None = None,
) -> AsyncIterator[DeviceFolders]:
    """Open the device folders.

    Raises:
        CertificateRejectedError: the daemon has none of the fleet roots that the client was told.
        OtahsmError: the daemon can't be reached, or the folders can't be used.
    """
    authority = await client.authority()
    client.check_anchors(authority)
    gateway = gateway_files(config, datetime.now(UTC)) or GatewayFiles(None, None, None)
    with closing(
        DeviceFolders(
            (out or config.devices).absolute(),
            authority.trust_anchor,
            gateway.ca_path or gateway.ca,
            gateway.url,
            layout=layout,
            passphrase=passphrase,
        )
    ) as folders:
        yield folders


async def find_profile(client: IssuanceClient, name: str) -> Profile:
    """Return a profile of the daemon, or its default for no name. Raises BadParameter, OtahsmError."""
    known = await client.profiles()
    for profile in known:
        if profile.name == name or (not name and profile.is_default):
            return profile
    names = ", ".join(profile.name for profile in known)
    raise typer.BadParameter(f"there is no profile {name!a}; the daemon has {names}")


async def issue_options(
    client: IssuanceClient,
    profile: str,
    layout: LayoutName,
    key_type: KeyType,
    passphrase: bytes | None,
    batch: str = "",
) -> IssueOptions:
    """Return how to make devices, with what the profile needs. Raises BadParameter, OtahsmError."""
    subject = (await find_profile(client, profile)).attributes
    configure = _configure if layout == "aktualizr" else None
    return IssueOptions(key_type, profile, batch, subject, passphrase, configure)


def _configure(device: Device) -> bytes:
    return sota_toml(device.attributes.get("hardware_id", "")).encode()
