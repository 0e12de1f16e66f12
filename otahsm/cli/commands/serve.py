"""`otahsm serve`."""

from __future__ import annotations

import asyncio
import os

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.settings import load_config
from otahsm.config import files_of_daemon
from otahsm.daemon import serve as run
from otahsm.daemon.log import logging_to_stderr
from otahsm.system.file_modes import check_file_modes
from otahsm.token.pin.keeper import ask_for_pin


def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; then it finishes work in progress and exits with 0.

    Logs one line per event to standard error, as JSON if that is not a terminal.
    """
    os.umask(0o077)
    settings = load_config(config, trusted=True)
    check_file_modes(files_of_daemon(settings, config))
    if settings.token and any(token.uri.pin.kind == "prompt" for token in settings.token.all):
        ask_for_pin(config)
    with logging_to_stderr():
        asyncio.run(run(settings))
