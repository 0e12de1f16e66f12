"""From the [client] section to a client and its folders."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

# gRPC's core would write its own lines about a failed handshake to standard error, beside our message. It
# reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from otahsm.cli.options import LayoutChoice
from otahsm.client import Client, ClientTls, IssuanceClient
from otahsm.config import ClientConfig, load_config, section
from otahsm.gateway.files import GatewayFiles, gateway_files
from otahsm.install.aktualizr import sota_toml
from otahsm.line import Device, DeviceFolders, IssueOptions
from otahsm.pki import KeyType


def load_client(path: Path) -> ClientConfig:
    """Read the [client] section. Raises ConfigError."""
    return section(load_config(path).client, "client")


def registers(path: Path) -> bool:
    """Return whether certificates are to be registered with a backend. Raises ConfigError."""
    return load_config(path).registration is not None


def connect(config: ClientConfig, patience: float | None) -> Client:
    """Open a client as the configuration says; `patience` overrides its own. Raises ConfigError."""
    return Client(
        config.target,
        ClientTls(config.ca, config.certificate, config.key),
        patience=config.patience_seconds if patience is None else patience,
    )


async def open_folders(
    client: IssuanceClient,
    config: ClientConfig,
    out: Path | None,
    layout: LayoutChoice = LayoutChoice.SEED,
    passphrase: bytes | None = None,
) -> DeviceFolders:
    """Open the device folders; the fleet root comes from the daemon. Raises OtahsmError."""
    authority = await client.authority()
    gateway = gateway_files(config, datetime.now(UTC)) or GatewayFiles(None, None, None)
    return DeviceFolders(
        (out or config.devices).absolute(),
        authority.trust_anchor,
        gateway.ca_path or gateway.ca,
        gateway.url,
        layout=layout.value,
        passphrase=passphrase,
    )


async def issue_options(
    client: IssuanceClient,
    profile: str,
    layout: LayoutChoice,
    key_type: KeyType,
    passphrase: bytes | None,
    batch: str = "",
) -> IssueOptions:
    """Return how to make devices, with what the profile needs. Raises OtahsmError."""
    known = await client.profiles()
    meant = (item for item in known if item.name == profile or (not profile and item.is_default))
    subject = next((item.attributes for item in meant), frozenset[str]())
    configure = _configure if layout is LayoutChoice.AKTUALIZR else None
    return IssueOptions(key_type, profile, batch, subject, passphrase, configure)


def _configure(device: Device) -> bytes:
    return sota_toml(device.attributes.get("hardware_id", "")).encode()
