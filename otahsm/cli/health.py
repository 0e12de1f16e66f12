"""`otahsm health`."""

from __future__ import annotations

from typing import Annotated

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption


def health(
    config: ConfigOption = DEFAULT_CONFIG,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the daemon to serve.", min=0)] = 0,
) -> None:
    """Say whether the daemon can sign now; exit with 0 if so, else with 3."""
    import asyncio

    from otahsm.cli.connect import connect, load_client
    from otahsm.errors import ExitCode

    async def ask() -> bool:
        async with connect(load_client(config), patience=5) as client:
            return await client.wait_until_serving(wait)

    serving = asyncio.run(ask())
    typer.echo("SERVING" if serving else "NOT_SERVING")
    if not serving:
        raise typer.Exit(ExitCode.UNAVAILABLE)
