"""`otahsm device reset`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from otahsm.cli.connect import connect, load_client
from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    PatienceOption,
    ProfileOption,
)
from otahsm.cli.output.fields import tell
from otahsm.pki import SerialNumber


def reset(
    device_id: Annotated[str, typer.Argument(help="The device id.")],
    profile: ProfileOption = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let a device have a new certificate for another key, at once: its key was lost, or its board replaced.

    What it has counts as superseded, and stays valid until it ends or is revoked. Its old key can't be
    certified again.

    \b
    Example:
      otahsm device reset sensor-17
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_client(config)

    async def run() -> SerialNumber:
        async with connect(settings, patience) as client:
            return await client.issuance.reset_device(device_id, profile=profile)

    superseded = asyncio.run(run()).hex()
    text = f"{device_id} may have a new certificate; {superseded} is superseded"
    tell(text, as_json=as_json, device_id=device_id, superseded=superseded)
