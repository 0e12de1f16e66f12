"""The channel to the daemon, with mutual TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from otahsm.system.tls_files import read_certificates, read_key_pair

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # gRPC waits up to two minutes before it reconnects, which is too long for a line.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Detects a machine that is switched off. The daemon allows a ping every 5 seconds.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # of the pings that measure a busy connection
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """A client's TLS files: the operator CA, its own certificate (chain) and key, all in PEM."""

    ca: Path
    certificate: Path
    key: Path


def open_channel(
    target: str, tls: ClientTls, server_name: str = "", *, options: Sequence[tuple[str, str | int]] = ()
) -> grpc.aio.Channel:
    """Open a channel to `host:port`; it connects on first use.

    Args:
        target: the daemon's address.
        tls: the client's files.
        server_name: the name in the daemon's certificate; empty for the host in `target`.
        options: additional channel arguments of gRPC.

    Raises:
        ConfigError: a file can't be read or is malformed, or certificate and key don't belong together.
    """
    pair = read_key_pair("client", tls.certificate, tls.key, check_key=False)
    credentials = grpc.ssl_channel_credentials(
        read_certificates("[client] ca", tls.ca).pem, pair.key, pair.certificate
    )
    name = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
    return grpc.aio.secure_channel(target, credentials, options=(*_OPTIONS, *options, *name))
