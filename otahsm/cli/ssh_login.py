"""From options to a login on devices."""

from __future__ import annotations

from pathlib import Path

from otahsm.cli.secrets import secret_in
from otahsm.install.aktualizr import IMPORT
from otahsm.install.ssh import Login


def make_login(
    user: str | None,
    port: int | None,
    identity: Path | None,
    password_file: Path | None,
    known_hosts: Path,
    *,
    accept_new: bool,
    sudo: bool,
    sudo_password_file: Path | None,
    seconds: float,
    directory: str = IMPORT,
) -> Login:
    """Read passwords, and say how devices are logged into. Raises ConfigError."""
    return Login(
        user,
        port,
        identity,
        secret_in(password_file, "the password"),
        known_hosts,
        accept_new,
        sudo,
        secret_in(sudo_password_file, "the password for sudo"),
        seconds,
        directory,
    )
