"""From the [client] section to a client and its folders."""

from __future__ import annotations

import os
from pathlib import Path

# gRPC's core would write its own lines about a failed handshake to standard error, beside our message. It
# reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from otahsm.client import (
    ClientTls,
    DeviceFolders,
    IssuingClient,
    LedgerClient,
    RevokingClient,
    TransparencyClient,
)
from otahsm.config import ClientConfig, load_config, section


def load_client(path: Path) -> ClientConfig:
    """Read the [client] section. Raises ConfigError."""
    return section(load_config(path).client, "client")


def connect(config: ClientConfig, patience: float | None) -> IssuingClient:
    """Open the client that a configuration describes; `patience` overrides its own. Raises ConfigError."""
    return IssuingClient(
        config.target,
        ClientTls(config.ca, config.certificate, config.key),
        patience=config.patience_seconds if patience is None else patience,
    )


def connect_transparency(config: ClientConfig, patience: float | None) -> TransparencyClient:
    """Open a client of the same daemons for checkpoints and proofs. Raises ConfigError."""
    return TransparencyClient(
        config.target,
        ClientTls(config.ca, config.certificate, config.key),
        patience=config.patience_seconds if patience is None else patience,
    )


def connect_revoking(config: ClientConfig, patience: float | None) -> RevokingClient:
    """Open the client that revokes, likewise. Raises ConfigError."""
    return RevokingClient(
        config.target,
        ClientTls(config.ca, config.certificate, config.key),
        patience=config.patience_seconds if patience is None else patience,
    )


def connect_ledger(config: ClientConfig, patience: float | None) -> LedgerClient:
    """Open the client that asks about the ledger; as `connect`."""
    return LedgerClient(
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
