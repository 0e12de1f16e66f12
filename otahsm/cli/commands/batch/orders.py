"""`otahsm batch`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated

import typer

from otahsm.cli.commands.batch.text import TABLE, NameArgument, follow, print_batch, print_line
from otahsm.cli.connect import ask
from otahsm.cli.first import first
from otahsm.cli.inputs import moment_of
from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    CountOption,
    FirstOption,
    IdsOption,
    JsonOption,
    LastOption,
    PatienceOption,
    ProfileOption,
    SetOption,
    TemplateOption,
    Uuid5Option,
)
from otahsm.cli.sources import devices_from, read_values
from otahsm.client import Batch, Client, IdScheme


def create(
    name: NameArgument,
    count: CountOption = None,
    ids: IdsOption = None,
    uuid5: Uuid5Option = "",
    template: TemplateOption = "",
    first: FirstOption = 1,
    values: SetOption = None,
    profile: ProfileOption = "",
    deadline: Annotated[
        str, typer.Option(help="Issue no certificate at or after this time, in UTC if it names no zone.")
    ] = "",
    clients: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            help="Who may issue in it: cn:line-3, or its name in the policy. Repeatable. Default: all.",
        ),
    ] = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Order a batch: the daemon enforces its number of devices, its clients and its deadline.

    Repeating the same order changes nothing. A name is never reused. For ids, see `otahsm device issue`.

    \b
    Examples:
      otahsm batch create cameras-47 --count 5000 --client cn:line-3 --deadline 2027-01-31
      otahsm batch create meters-12 --ids meters.csv --template '{plant}-{unit}'
    """  # noqa: D301 - click reads the character, not the escape
    source = devices_from(count, ids, uuid5, template, first, values)
    scheme = IdScheme(source.kind, uuid5 or template, first, source.digest, read_values(values or ()))
    ends = moment_of(deadline, "--deadline")
    batch = Batch(name, source.count, scheme, profile, ends, tuple(clients or ()))
    print_batch(ask(config, patience, lambda client: client.batches.create(batch)), as_json=as_json)


def status(
    name: NameArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the batch until it is full or closed.")
    ] = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show a batch and its progress, on all clients.

    \b
    Examples:
      otahsm batch status cameras-47
      otahsm batch status cameras-47 --watch
    """  # noqa: D301 - click reads the character, not the escape

    def look(client: Client) -> Awaitable[Batch]:
        return follow(client.batches, name) if watch else client.batches.get(name)

    print_batch(ask(config, patience, look), as_json=as_json)


def list_batches(
    last: LastOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """List batches.

    \b
    Examples:
      otahsm batch list
      otahsm batch list --last 5
    """  # noqa: D301 - click reads the character, not the escape

    async def show(client: Client) -> None:
        begin = None if as_json else TABLE.print_heading
        async for batch in first(client.batches.everything(newest_first=last is not None), last, begin):
            print_line(batch, as_json=as_json)

    ask(config, patience, show)


def close(
    name: NameArgument,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Close a batch for good: nothing more is issued in it. What was issued stays valid.

    \b
    Example:
      otahsm batch close cameras-47
    """  # noqa: D301 - click reads the character, not the escape
    print_batch(ask(config, patience, lambda client: client.batches.close(name)), as_json=as_json)
