"""From options to a way of logging into devices. It needs the ssh extra; nothing beside it does."""

from __future__ import annotations

from pathlib import Path

from otahsm.cli.commands.device.installing import Connect
from otahsm.install.aktualizr import IMPORT
from otahsm.install.ssh import Host, Login, connected
from otahsm.system.secret_files import read_secret_line


def ssh_login(
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
) -> Connect:
    """Read the passwords, and return what logs into a host. Raises ConfigError."""
    login = Login(
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
    return lambda host: connected(Host.parse(host), login)
