"""The configuration of a command, which is run as the user whose it is."""

from __future__ import annotations

from pathlib import Path

import typer

from otahsm import config
from otahsm.config import Config
from otahsm.system.file_modes import GuardedFile, check_file_modes
from otahsm.system.owners import become_owner
from otahsm.system.trusted_files import own_files


def load_config(path: Path, *, trusted: bool = False) -> Config:
    """Read the configuration. If this is root and the file is another user's, become that user first.

    It names programs to run and files to write, so whoever can change it says what this process does.

    Args:
        path: the file.
        trusted: whether only this user and root may be able to change it, as for a service.

    Raises:
        ConfigError: it can't be read or is invalid, or several users can change it.
    """
    if owner := become_owner(path):
        typer.echo(f"otahsm: continuing as the user {owner.name}, who can change {path}", err=True)
    if not trusted:
        return config.load_config(path)
    check_file_modes([GuardedFile("the configuration", path)])  # its message says which file that is
    return config.load_config(path, own_files())
