"""`otahsm device reset`."""

from __future__ import annotations

from typing import Annotated

import typer

from otahsm.cli.confirming import ExpectOption, confirm_number
from otahsm.cli.connect import ask
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption, ProfileOption
from otahsm.cli.output.fields import print_outcome
from otahsm.cli.output.times import show_time
from otahsm.client import Client
from otahsm.errors import NotFoundError
from otahsm.pki.serial import SerialNumber


def reset(
    device_id: Annotated[str, typer.Argument(help="The device id.")],
    profile: ProfileOption = "",
    expect: ExpectOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let a device get a certificate for a new key now, because its key was lost or its board replaced.

    Its current certificate counts as superseded, but stays valid until it expires or is revoked. Its old key
    can't be certified again. The command first shows that certificate, and wants the number 1 typed, or
    --expect 1.

    \b
    Example:
      otahsm device reset sensor-17
    """  # noqa: D301 - click reads the character, not the escape

    async def run(client: Client) -> SerialNumber:
        sample = await _current(client, device_id, profile)
        confirm_number(f"reset 1 device, {device_id}: this can't be undone", 1, sample, expect)
        return await client.issuance.reset_device(device_id, profile=profile)

    serial = ask(config, patience, run)
    superseded = serial.hex()
    text = f"{device_id} may get a certificate for a new key; {superseded} is superseded"
    print_outcome(text, as_json=as_json, device_id=device_id, superseded=superseded)


async def _current(client: Client, device_id: str, profile: str) -> list[str]:
    """Return the certificate that would be superseded; nothing if there is none, which the daemon refuses."""
    try:
        entry, _ = await client.ledger.by_device(device_id, profile)
    except NotFoundError:
        return []
    return [f"superseded: {entry.serial.hex()}, {entry.profile}, requested {show_time(entry.intended_at)}"]
