"""Runs a worker that systemd has started at a socket."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from otahsm.errors import ConfigError
from otahsm.workers.child import Handler, run_worker


def run_at_socket(start: Callable[[list[bytes]], Handler], setting: str, *, confined: bool = False) -> None:
    """Run a worker until the daemon closes the connection.

    Args:
        start: as `run_worker` takes it.
        setting: what names the socket in the daemon's configuration.
        confined: as `run_worker` takes it.

    Raises:
        ConfigError: standard input is not a connection.
    """
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        raise ConfigError(
            "standard input is not a socket",
            hint=f"systemd starts this for each connection to {setting}.",
        )
    os.umask(0o077)
    run_worker(start, at_socket=True, confined=confined)
