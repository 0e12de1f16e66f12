"""`otahsm device reset`."""

from __future__ import annotations

from typing import Annotated

import typer

from otahsm.cli.connect import ask
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption, ProfileOption
from otahsm.cli.output.fields import print_outcome


def reset(
    device_id: Annotated[str, typer.Argument(help="The device id.")],
    profile: ProfileOption = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let a device get a certificate for a new key now, because its key was lost or its board replaced.

    Its current certificate counts as superseded, but stays valid until it expires or is revoked. Its old key
    can't be certified again.

    \b
    Example:
      otahsm device reset sensor-17
    """  # noqa: D301 - click reads the character, not the escape
    serial = ask(config, patience, lambda client: client.issuance.reset_device(device_id, profile=profile))
    superseded = serial.hex()
    text = f"{device_id} may get a certificate for a new key; {superseded} is superseded"
    print_outcome(text, as_json=as_json, device_id=device_id, superseded=superseded)
