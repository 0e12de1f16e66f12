"""`otahsm health`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from otahsm.cli.connect import connect, load_client
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import tell
from otahsm.errors import OtahsmError, TokenUnavailableError


def health(
    config: ConfigOption = DEFAULT_CONFIG,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the daemon to serve.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say whether the daemon can sign now; exit with 0 if so, else with 3, and say why on standard error."""
    settings = load_client(config)

    async def ask() -> None:
        async with connect(settings, patience=0) as client:
            if not await client.wait_until_serving(wait):
                reason = (await client.issuance.authority()).not_serving_reason
                raise TokenUnavailableError(f"the daemon runs, but can't sign now: {reason}")

    try:
        asyncio.run(ask())
    except OtahsmError as error:
        tell("NOT_SERVING", as_json=as_json, serving=False, reason=error.reason, message=error.message)
        raise
    tell("SERVING", as_json=as_json, serving=True)
