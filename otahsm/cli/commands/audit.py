"""`otahsm audit`."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

from otahsm.cli.connect import ask
from otahsm.cli.first import first
from otahsm.cli.inputs import period_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, LastOption, PatienceOption
from otahsm.cli.output.fields import print_json_line
from otahsm.cli.output.tables import Column, Table
from otahsm.cli.output.times import show_time
from otahsm.client import AuditEvent, AuditQuery, Client

_TABLE: Final = Table(Column("time", 23), Column("event", 20), Column("client"), Column("details"))


def audit(
    event: Annotated[
        str, typer.Option(help="Only this event, such as access.denied; access. means all that start so.")
    ] = "",
    client: Annotated[str, typer.Option(help="Only this client: cn:line-3, or its name in the policy.")] = "",
    after: Annotated[
        str, typer.Option(help="Only events at or after this time, such as 2026-11-23T07:00Z.")
    ] = "",
    before: Annotated[str, typer.Option(help="Only events before this time.")] = "",
    last: LastOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing new events until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON to standard output, one event per line.")
    ] = False,
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show the audit log: who was allowed and who was denied, logins, ceremonies, policy changes.

    What a client repeats within a minute is one event with a count, and the time of the last repetition.
    Events are in the order in which they were written; what is written late, such as counts and ceremonies,
    can be older than the events before it. For certificates and revocations, see `otahsm ledger list`. All
    of it is in the ledger's log, and `otahsm ledger verify` finds what somebody changed or removed. Requires
    the role auditor or admin.

    \b
    Examples:
      otahsm audit --last 20
      otahsm audit --event access.denied --after 2026-11-23
      otahsm audit --follow --json
    """  # noqa: D301 - click reads the character, not the escape
    query = AuditQuery(event, client, *period_of(after, before), newest_first=last is not None)
    if follow and (last is not None or before):
        raise typer.BadParameter("--follow goes on with new events: omit --last and --before")

    async def show(daemon: Client) -> None:
        begin = None if as_json else _TABLE.print_heading
        async for item in first(daemon.access.events(query, follow=follow), last, begin):
            _show(item, as_json=as_json)

    ask(config, patience, show)


def _show(item: AuditEvent, *, as_json: bool) -> None:
    details = json.loads(item.details)
    if as_json:
        print_json_line({**item._asdict(), "details": details})
        return
    count = f" x{item.occurrences:,}" if item.occurrences > 1 else ""
    words = "  ".join(f"{name}={value}" for name, value in details.items())
    _TABLE.print(show_time(item.at), item.name + count, item.client, words)
