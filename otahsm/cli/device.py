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
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Devices: keys, certificates, folders.")


@app.callback()
def _group() -> None:
    """Devices: keys, certificates, folders."""


@app.command()
def issue(  # noqa: PLR0913 - options
    count: Annotated[
        int | None, typer.Option(min=1, help="How many devices, with random UUIDs; begun ones first.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="File with one device id a line.")] = None,
    out: OutOption = None,
    key_type: Annotated[KeyTypeName, typer.Option(help="Type of the devices' keys.")] = KeyTypeName.EC_P256,
    profile: ProfileOption = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make keys here, have certificates issued, write device folders.

    Running it again finishes what an interrupted run left: complete folders are left alone, begun ones go
    on with the key they have. With --ids give the same file, with --count the number that is missing.

    Exit codes: 0 all devices have their certificate, 1 some failed (each is listed), 2 wrong use or
    configuration, 3 the daemon can't be reached.

    \b
    Examples:
      otahsm device issue --count 1000
      otahsm device issue --ids serials.txt --out /srv/line-3
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.connect import connect, load_client, open_folders
    from otahsm.cli.ids import read_ids, some_ids
    from otahsm.cli.progress import Run
    from otahsm.client import issue_devices

    if (count is None) == (ids is None):
        raise typer.BadParameter("give either --count or --ids")
    settings = load_client(config)
    named = read_ids(ids) if ids is not None else None

    async def run() -> bool:
        async with connect(settings, patience) as client:
            folders = await open_folders(client, settings, out)
            devices = some_ids(folders, count or 0) if named is None else named
            reports = issue_devices(client, folders, devices, key_type=key_type.value, profile=profile)
            return await Run(len(devices), folders.root, as_json=as_json).follow(reports)

    if not asyncio.run(run()):
        raise typer.Exit(1)
