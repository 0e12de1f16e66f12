"""`otahsm device install`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.commands.device.installing import (
    Configuration,
    Places,
    find_jobs,
    run_jobs,
    tell_jobs,
    token_keys,
)
from otahsm.cli.connect import load_client
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, DevicesOption, JsonOption, QuietOption
from otahsm.cli.output.progress import OutputMode


def install(
    device_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DEVICE_ID...]", help="The device; or those of the inventory."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Install one device into the root folder of an image here.")
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="[USER@]HOST[:PORT]", help="Install one device there, over SSH.")
    ] = "",
    inventory: Annotated[
        Path | None,
        typer.Option(help="Install many: CSV or JSON Lines with device_id, host, port, user, hardware_id."),
    ] = None,
    devices: DevicesOption = None,
    user: Annotated[str | None, typer.Option(help="User on hosts that name none.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of hosts that name none.")] = None,
    identity: Annotated[Path | None, typer.Option("--identity", "-i", help="Private key for SSH.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="Log in with the password in this file (mode 0600).")
    ] = None,
    known_hosts: Annotated[Path, typer.Option(help="File of host keys.")] = Path("~/.ssh/known_hosts"),
    accept_new: Annotated[
        bool,
        typer.Option("--accept-new", help="Enter host keys that are not in it yet, but no other ones."),
    ] = False,
    sudo: Annotated[bool, typer.Option("--sudo", help="Become root on the device with sudo.")] = False,
    sudo_password_file: Annotated[
        Path | None, typer.Option(help="What sudo asks for, in this file (mode 0600).")
    ] = None,
    sota_toml: Annotated[
        bool, typer.Option("--sota-toml", help="Write aktualizr's /var/sota/sota.toml too.")
    ] = False,
    hardware_id: Annotated[str, typer.Option(help="The primary ECU's hardware id in it.")] = "",
    p11_module: Annotated[
        str,
        typer.Option(help="The key is in the device's token; its PKCS#11 library, on the device."),
    ] = "",
    p11_pin_file: Annotated[
        Path | None, typer.Option(help="The token's PIN, to be written into it, in this file (mode 0600).")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where another device's files are, or another sota.toml.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Devices at the same time.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one device may take.")] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; connect to nothing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Put key, certificate, root.crt and gateway.url into /var/sota/import of devices, and check them there.

    The folder is replaced as a whole. What is there already is left alone: the same command again does what
    is missing. A host that has another device's certificate is refused.

    Exit codes: 0 every device has its files, 1 some have not (each is listed), 2 wrong use or configuration.

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
    jobs = find_jobs(Places(root, host, inventory), device_ids or [], folder, plan)
    if dry_run:
        tell_jobs(jobs, as_json=as_json)
        return
    connect = None
    if root is None:
        from otahsm.cli.commands.device.ssh_login import ssh_login  # noqa: PLC0415 - it needs the ssh extra

        connect = ssh_login(
            user,
            port,
            identity,
            password_file,
            known_hosts.expanduser(),
            accept_new=accept_new,
            sudo=sudo,
            sudo_password_file=sudo_password_file,
            seconds=timeout,
        )
    if not asyncio.run(run_jobs(jobs, connect, parallel, OutputMode(as_json, quiet), replace=replace)):
        raise typer.Exit(1)
