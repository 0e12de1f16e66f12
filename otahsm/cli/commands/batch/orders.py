"""`otahsm batch`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated

import typer

from otahsm.cli.commands.batch.text import TABLE, NameArgument, follow, print_batch, print_line
from otahsm.cli.confirming import ExpectOption, amount, confirm_number
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
from otahsm.cli.output.times import show_time
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
    expect: ExpectOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Order a batch: the daemon enforces its number of devices, its clients and its deadline.

    It first shows the order, and wants the number of devices typed, or --expect N.

    Repeating the same order changes nothing. A name is never reused. For ids, see `otahsm device issue`.

    \b
    Examples:
      otahsm batch create cameras-47 --count 5000 --client cn:line-3 --deadline 2027-01-31
      otahsm batch create cameras-48 --count 5000 --expect 5000
      otahsm batch create meters-12 --ids meters.csv --template '{plant}-{unit}'
    """  # noqa: D301 - click reads the character, not the escape
    source = devices_from(count, ids, uuid5, template, first, values)
    scheme = IdScheme(source.kind, uuid5 or template, first, source.digest, read_values(values or ()))
    ends = moment_of(deadline, "--deadline")
    batch = Batch(name, source.count, scheme, profile, ends, tuple(clients or ()))
    confirm_number(
        f"order {amount(batch.device_count, 'device')} as the batch {name}",
        batch.device_count,
        source.sample,
        expect,
    )
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
    expect: ExpectOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Close a batch for good: nothing more is issued in it. What was issued stays valid.

    It first shows how many devices of the order have no certificate yet, and never will, and wants that
    number typed, or --expect N. Closing a batch again changes nothing, and asks nothing.

    \b
    Examples:
      otahsm batch close cameras-47
      otahsm batch close cameras-47 --expect 120
    """  # noqa: D301 - click reads the character, not the escape

    async def run(client: Client) -> Batch:
        batch = await client.batches.get(name)
        if batch.closed_at is None:
            never = max(batch.device_count - batch.issued, 0)
            confirm_number(
                f"close the batch {name} for good: {never} of its {amount(batch.device_count, 'device')}"
                " will get no certificate in it",
                never,
                [f"issued: {batch.issued}", f"ordered: {show_time(batch.created_at)} by {batch.created_by}"],
                expect,
            )
        return await client.batches.close(name)

    print_batch(ask(config, patience, run), as_json=as_json)
