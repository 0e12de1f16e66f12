"""`otahsm ledger vouch`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.settings import load_config
from otahsm.config import section
from otahsm.errors import ExitCode
from otahsm.issuance.authorities import Authorities
from otahsm.ledger import AuditEvent, Ledger, Vouched, database_of, read_mac_keys, unproven_entries
from otahsm.system.clock import microseconds, utc_now
from otahsm.system.spool import host_user, storable
from otahsm.templates import counted, plain
from otahsm.transparency.audit import EventName, canonical


def vouch(
    accept: Annotated[
        int | None,
        typer.Option(
            min=0, max=10**12, help="Accept that many entries. Run without it first, and look at them."
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """List the entries that wait to become leaves of the ledger's tree, and that no MAC vouches for.

    There are some in a ledger of an older otahsm, whose daemon did not stop by itself: start and stop that
    version, which takes them into the tree. There are some if the former [ledger] key_file was lost. And
    there are some if somebody has written into the database. Nothing is issued until there are none.

    If they are all of calls that the daemon answered, accept them: stop the daemons, and give their number.
    The audit log says who did. An entry that nobody made must be removed from the database instead.

    \b
    Example:
      otahsm ledger vouch --accept 2
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    ledger = section(settings.ledger, "ledger")
    keys, authorities = read_mac_keys(ledger), Authorities.load(settings)
    waiting = unproven_entries(ledger, keys)
    if accept is None:
        for line in waiting.first:
            typer.echo(plain(line))
        if waiting.total > len(waiting.first):
            typer.echo(f"and {waiting.total - len(waiting.first)} more")
        typer.echo(
            f"No MAC vouches for {counted(waiting.total, 'entry', 'entries')}. Nothing was changed.", err=True
        )
        if waiting.total:
            raise typer.Exit(ExitCode.SOME_FAILED)
        return
    details = canonical({"entries": accept})
    who = storable(f"host:{host_user()}")
    event = AuditEvent(microseconds(utc_now()), EventName.ENTRIES_ACCEPTED, who, 1, details)
    opened = Ledger(database_of(ledger), keys, authorities.key_identifiers)
    asyncio.run(_open_and_close(opened, Vouched(accept, event)))
    typer.echo(f"{counted(accept, 'entry is', 'entries are')} accepted.")


async def _open_and_close(ledger: Ledger, vouched: Vouched) -> None:
    try:
        await ledger.open(vouched)
    finally:
        await ledger.close()
