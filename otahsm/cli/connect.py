"""From the [client] section to a client and its folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

# gRPC's core would write its own lines about a failed handshake to standard error, beside our message. It
# reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from otahsm.client import ClientTls, DaemonClient, DeviceFolders, IssuingClient
from otahsm.config import ClientConfig, load_config, section

_Client = TypeVar("_Client", bound=DaemonClient)


def load_client(path: Path) -> ClientConfig:
    """Read the [client] section. Raises ConfigError."""
    return section(load_config(path).client, "client")


def connect(kind: type[_Client], config: ClientConfig, patience: float | None) -> _Client:
    """Open a client as the configuration says; `patience` overrides its own. Raises ConfigError."""
    return kind(
        config.target,
        ClientTls(config.ca, config.certificate, config.key),
        patience=config.patience_seconds if patience is None else patience,
    )


async def open_folders(client: IssuingClient, config: ClientConfig, out: Path | None) -> DeviceFolders:
    """Open the device folders; the fleet root comes from the daemon. Raises OtahsmError."""
    authority = await client.authority()
    return DeviceFolders(
        (out or config.devices).absolute(), authority.trust_anchor, config.server_ca, config.gateway_url
    )
