"""`otahsm device install`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.commands.device.installing import (
    Configuration,
    find_jobs,
    print_jobs,
    run_jobs,
    token_keys,
)
from otahsm.cli.connect import load_client
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, DevicesOption, JsonOption, QuietOption
from otahsm.cli.output.progress import OutputMode
from otahsm.system.secret_files import read_secret_line


def install(
    device_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DEVICE_ID...]", help="The device; with --inventory, only these devices of it."
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Install one device into an image's root folder on this machine.")
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="[USER@]HOST[:PORT]", help="Install one device on this host, over SSH.")
    ] = "",
    inventory: Annotated[
        Path | None,
        typer.Option(help="Install many: CSV or JSON Lines with device_id, host, port, user, hardware_id."),
    ] = None,
    devices: DevicesOption = None,
    user: Annotated[str | None, typer.Option(help="The user, where the host names none.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port, where the host names none.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", "-i", help="The private key for SSH.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="Log in with the password in this file (mode 0600).")
    ] = None,
    known_hosts: Annotated[Path, typer.Option(help="The file of known host keys.")] = Path(
        "~/.ssh/known_hosts"
    ),
    accept_new: Annotated[
        bool,
        typer.Option("--accept-new", help="Add the keys of new hosts to it; a changed key is still refused."),
    ] = False,
    sudo: Annotated[bool, typer.Option("--sudo", help="Become root on the device with sudo.")] = False,
    sudo_password_file: Annotated[
        Path | None, typer.Option(help="The password for sudo, in this file (mode 0600).")
    ] = None,
    sota_toml: Annotated[
        bool, typer.Option("--sota-toml", help="Also write aktualizr's /var/sota/sota.toml.")
    ] = False,
    hardware_id: Annotated[str, typer.Option(help="The primary ECU's hardware id in sota.toml.")] = "",
    p11_module: Annotated[
        str,
        typer.Option(help="The key is in the device's token: the path of its PKCS#11 library on the device."),
    ] = "",
    p11_pin_file: Annotated[
        Path | None, typer.Option(help="The token's PIN for sota.toml, in this file (mode 0600).")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace another device's files, or another sota.toml.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="How many devices to install at once.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="How many seconds one device may take.")] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done; connect to nothing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Put key, certificate, root.crt and gateway.url into /var/sota/import on devices, and check them there.

    The folder is replaced as a whole. Devices that have their files are left alone, so run the same command
    again to finish. A host that has another device's certificate is refused.

    Exit codes: 0 every device has its files, 1 some failed (each is listed), 2 wrong use or configuration.

    \b
    Examples:
      otahsm device install cam-1 --root /srv/image --sota-toml --hardware-id imx8
      otahsm device install cam-1 --host root@192.0.2.17
      otahsm device install --inventory hosts.csv --user factory --sudo --parallel 32
    """  # noqa: D301 - click reads the character, not the escape
    if (hardware_id or p11_module) and not sota_toml:
        raise typer.BadParameter("--hardware-id and --p11-module go with --sota-toml")
    if p11_pin_file is not None and not p11_module:
        raise typer.BadParameter("--p11-pin-file goes with --p11-module")
    if sudo_password_file is not None and not sudo:
        raise typer.BadParameter("--sudo-password-file goes with --sudo")
    folder = devices or load_client(config).devices
    plan = Configuration(sota_toml, hardware_id, token_keys(p11_module, p11_pin_file))
    jobs = find_jobs(root, host, inventory, device_ids or [], folder, plan)
    if dry_run:
        print_jobs(jobs, as_json=as_json)
        return
    connect = None
    if root is None:
        from otahsm.install.ssh import Login, over_ssh  # noqa: PLC0415 - it needs the ssh extra

        password = _read_secret(password_file, "the password")
        for_sudo = _read_secret(sudo_password_file, "the password for sudo")
        connect = over_ssh(
            Login(user, port, identity, password, known_hosts, accept_new, sudo, for_sudo, timeout)
        )
    if not asyncio.run(run_jobs(jobs, connect, parallel, OutputMode(as_json, quiet), replace=replace)):
        raise typer.Exit(1)


def _read_secret(path: Path | None, what: str) -> str | None:
    return read_secret_line(path, what) if path else None
