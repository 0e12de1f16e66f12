"""`otahsm ledger vouch`."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.settings import load_config
from otahsm.config import section
from otahsm.errors import ConfigError, ExitCode
from otahsm.issuance.authorities import Authorities
from otahsm.ledger import AuditEvent, Ledger, Vouched, database_of, read_mac_keys, unproven_entries
from otahsm.system.clock import microseconds, utc_now
from otahsm.system.spool import host_user, storable
from otahsm.templates import counted, plain
from otahsm.tlog import canonical
from otahsm.transparency.audit import EventName


def vouch(
    accept: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST",
            help="Accept exactly the entries that were listed with this digest. Run without it first, and"
            " look at them.",
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """List the entries of the ledger for which nothing shows that a daemon wrote them.

    There are some in a ledger of an older otahsm, which did not prove all that it does now; stop its daemons
    first. There are some if the former [ledger] key_file was lost while entries waited to become leaves of
    the tree. And there are some if somebody has written into the database, or has set back its schema: if
    this version has used the ledger before, there should be none. Nothing is issued until there are none.

    If they are all of calls that daemons answered, accept them: stop the daemons, and give the digest, which
    fits no other entries. The audit log says who did. An entry that nobody made must be removed from the
    database instead.

    \b
    Example:
      otahsm ledger vouch --accept 2:8d4e1f02c7ab3956
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    ledger = section(settings.ledger, "ledger")
    authorities = Authorities.load(settings).key_identifiers
    keys = read_mac_keys(ledger).of_ledger(authorities)
    if accept is None:
        waiting = unproven_entries(ledger, keys, lambda line: typer.echo(plain(line)))
        typer.echo(
            f"Nothing shows that a daemon wrote {counted(waiting.total, 'entry', 'entries')}."
            " Nothing was changed.",
            err=True,
        )
        if waiting.total:
            typer.echo(f"To accept exactly what is listed: --accept {waiting.digest}", err=True)
            raise typer.Exit(ExitCode.SOME_FAILED)
        return
    entries = _number_in(accept)
    details = canonical({"entries": entries})
    who = storable(f"host:{host_user()}")
    event = AuditEvent(microseconds(utc_now()), EventName.ENTRIES_ACCEPTED, who, 1, details)
    opened = Ledger(database_of(ledger), keys, authorities)
    asyncio.run(_open_and_close(opened, Vouched(accept, event)))
    typer.echo(f"{counted(entries, 'entry is', 'entries are')} accepted.")


def _number_in(digest: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}:[0-9a-f]{16}", digest):
        raise ConfigError(
            f"--accept {digest[:40]!a} is no digest of entries",
            hint="Run `otahsm ledger vouch` without it, look at the entries, and give the digest below them.",
        )
    return int(digest.partition(":")[0])


async def _open_and_close(ledger: Ledger, vouched: Vouched) -> None:
    try:
        await ledger.open(vouched)
    finally:
        await ledger.close()
