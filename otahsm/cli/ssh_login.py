"""From options to a login on devices."""

from __future__ import annotations

from pathlib import Path

from otahsm.install.aktualizr import IMPORT
from otahsm.install.ssh import Login
from otahsm.system.secret_files import read_secret_line


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
        read_secret_line(password_file, "the password") if password_file else None,
        known_hosts,
        accept_new,
        sudo,
        read_secret_line(sudo_password_file, "the password for sudo") if sudo_password_file else None,
        seconds,
        directory,
    )
