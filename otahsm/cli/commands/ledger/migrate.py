"""`otahsm ledger migrate`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.config import load_config, section
from otahsm.errors import ExitCode
from otahsm.issuance.authorities import Authorities
from otahsm.ledger import Ledger, database_of, read_mac_keys, unproven_entries
from otahsm.templates import counted, plain


def migrate(
    accept: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10**12,
            help="Accept that many entries that no MAC vouches for. Run without it first.",
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Bring a ledger of an older otahsm to the current schema. No daemon may be using it.

    A daemon does that itself when it starts. Only if entries wait to become leaves of the ledger's tree, an
    operator must accept them: in older schemas nothing shows that a daemon wrote them. This lists them, and
    changes nothing. Accept them if they are of the last calls that the daemon answered. Or start and stop the
    previous version: it takes them into the tree when it stops.

    \b
    Example:
      otahsm ledger migrate --accept 2
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    ledger = section(settings.ledger, "ledger")
    keys, authorities = read_mac_keys(ledger), Authorities.load(settings)
    waiting = unproven_entries(ledger)
    if waiting.total and accept is None:
        for line in waiting.first:
            typer.echo(plain(line))
        if waiting.total > len(waiting.first):
            typer.echo(f"and {waiting.total - len(waiting.first)} more")
        entries = counted(waiting.total, "entry waits", "entries wait")
        typer.echo(
            f"{entries} to become leaves, and nothing shows that a daemon wrote them. Nothing was changed."
            f" If they are genuine: otahsm ledger migrate --accept {waiting.total}",
            err=True,
        )
        raise typer.Exit(ExitCode.SOME_FAILED)
    asyncio.run(_open_and_close(Ledger(database_of(ledger), keys, authorities.key_identifiers), accept))
    typer.echo("The ledger has the current schema.")


async def _open_and_close(ledger: Ledger, accept: int | None) -> None:
    try:
        await ledger.open(accept)
    finally:
        await ledger.close()
