"""`otahsm device pack`."""

from __future__ import annotations

from typing import Annotated

import typer

from otahsm.cli.connect import load_client
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, DevicesOption, JsonOption, NewFileOption
from otahsm.cli.output.fields import print_json
from otahsm.cli.output.files import new_path
from otahsm.errors import ConfigError
from otahsm.line import pack as pack_folders
from otahsm.pki.names import check_device_id
from otahsm.system.owners import check_owner
from otahsm.templates import counted


def pack(
    output: NewFileOption,
    device_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE_ID...]", help="The devices to pack. Default: all.")
    ] = None,
    devices: DevicesOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Pack the folders of complete devices into one tar archive that only its owner can read.

    Works with the layouts seed and aktualizr. The folders stay where they are.

    \b
    Example:
      otahsm device pack --output batch-7.tar
    """  # noqa: D301 - click reads the character, not the escape
    root = devices or load_client(config).devices
    check_owner(root)
    for device_id in device_ids or ():
        check_device_id(device_id)
    try:
        folders = [root / name for name in device_ids] if device_ids else sorted(root.iterdir())
    except OSError as error:
        raise ConfigError(
            f"can't read {root}: {error.strerror}", hint="Name the folder with --devices."
        ) from None
    with new_path(output) as temporary, temporary.open("wb") as file:
        count = pack_folders(folders, file)
        if count < max(1, len(device_ids or ())):
            raise ConfigError(
                f"only {count} of these devices are complete in {root}",
                hint="Finish them with `otahsm device issue`, or name others.",
            )
    if as_json:
        print_json({"devices": count, "archive": str(output)})
    else:
        typer.echo(f"{counted(count, 'device')} in {output}")
