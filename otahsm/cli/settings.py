"""The configuration of a command, which is run as the user whose it is."""

from __future__ import annotations

from pathlib import Path

import typer

from otahsm import config
from otahsm.config import Config
from otahsm.system.owners import become_owner


def load_config(path: Path) -> Config:
    """Read the configuration. If this is root and the file is another user's, become that user first.

    It names programs to run and files to write, so whoever can change it says what this process does.

    Raises:
        ConfigError: it can't be read or is invalid, or several users can change it.
    """
    if owner := become_owner(path):
        typer.echo(f"otahsm: continuing as the user {owner.name}, who can change {path}", err=True)
    return config.load_config(path)
