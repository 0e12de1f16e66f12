"""`otahsm device`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    KeyTypeName,
    OutOption,
    PatienceOption,
    ProfileOption,
    ResumeOption,
    RetryRefusedOption,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Devices: keys, certificates, folders.")


@app.callback()
def _group() -> None:
    """Devices: keys, certificates, folders."""


@app.command()
def issue(
    count: Annotated[int | None, typer.Option(min=1, help="How many devices, with random UUIDs.")] = None,
    ids: Annotated[Path | None, typer.Option(help="File with one device id a line.")] = None,
    out: OutOption = None,
    key_type: Annotated[KeyTypeName, typer.Option(help="Type of the devices' keys.")] = KeyTypeName.EC_P256,
    profile: ProfileOption = "",
    resume: ResumeOption = True,
    retry_refused: RetryRefusedOption = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make keys here, have certificates issued, write device folders.

    The same command again finishes what an interrupted run left, with the ids and the keys that it has:
    --count 1000 makes a thousand, however often it is interrupted. Devices that were refused are listed
    again, and not asked for. When every device has its certificate, the same command is a new run.

    Exit codes: 0 all devices have their certificate, 1 some failed (each is listed), 2 wrong use or
    configuration, 3 the daemon can't be reached.

    \b
    Examples:
      otahsm device issue --count 1000
      otahsm device issue --ids serials.txt --out /srv/line-3
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio
    import hashlib

    from otahsm.cli.connect import connect, load_client, open_folders
    from otahsm.cli.ids import read_ids
    from otahsm.cli.progress import Run, tell_of_unfinished_counts
    from otahsm.client import IssuingClient, Order, issue_devices

    if (count is None) == (ids is None):
        raise typer.BadParameter("give either --count or --ids")
    settings = load_client(config)
    named = read_ids(ids) if ids is not None else None

    if named is None:
        what = ["--count", str(count)]
    else:
        what = ["--ids", hashlib.sha256("\n".join(named).encode()).hexdigest()]
    asked = ["device issue", *what, "--key-type", key_type.value, "--profile", profile]

    async def run() -> bool:
        async with connect(IssuingClient, settings, patience) as client:
            folders = await open_folders(client, settings, out)
            if named is None:
                tell_of_unfinished_counts(folders, asked)
            order = Order.open(folders, asked, count=count or 0, resume=resume, retry_refused=retry_refused)
            devices = order.device_ids if named is None else named
            reports = issue_devices(
                client, folders, devices, key_type=key_type.value, profile=profile, order=order
            )
            return await Run(len(devices), folders.root, as_json=as_json).follow(reports, order)

    if not asyncio.run(run()):
        raise typer.Exit(1)


@app.command()
def reset(
    device_id: Annotated[str, typer.Argument(help="The device id.")],
    profile: ProfileOption = "",
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let a device have a new certificate for another key, at once: its key was lost, or its board replaced.

    What it has counts as superseded, and stays valid until it ends or is revoked. Its old key can't be
    certified again.

    \b
    Example:
      otahsm device reset sensor-17
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.connect import connect, load_client
    from otahsm.client import IssuingClient
    from otahsm.pki import serial_octets

    settings = load_client(config)

    async def run() -> int:
        async with connect(IssuingClient, settings, patience) as client:
            return await client.reset_device(device_id, profile=profile)

    serial = asyncio.run(run())
    typer.echo(f"{device_id} may have a new certificate; {serial_octets(serial).hex()} is superseded")
