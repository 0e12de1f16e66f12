"""`otahsm batch`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    CountOption,
    FirstOption,
    IdsOption,
    JsonOption,
    KeyTypeName,
    LayoutChoice,
    LayoutOption,
    OutOption,
    PassphraseCommandOption,
    PassphraseFileOption,
    PatienceOption,
    ProfileOption,
    QuietOption,
    RetryRefusedOption,
    SetOption,
    TemplateOption,
    Uuid5Option,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Batches: orders of so many devices, by then, by this line. The daemon enforces them.",
)

NameArgument = Annotated[str, typer.Argument(help="The batch's name.")]


@app.command()
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
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
            help="No certificate is issued from then on, in UTC.",
        ),
    ] = None,
    clients: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            help="Who may issue in it, as in cn:line-3. May be given again. Default: all.",
        ),
    ] = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Order a batch. The daemon issues no more certificates in it than this, to nobody else, and none later.

    The same order again changes nothing. Names are never used again. Ids are as with `otahsm device issue`.

    \b
    Examples:
      otahsm batch create cameras-47 --count 5000 --client cn:line-3 --deadline 2027-01-31
      otahsm batch create meters-12 --ids meters.csv --template '{plant}-{unit}'
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio
    from datetime import UTC

    from otahsm.cli.batch_text import print_batch
    from otahsm.cli.connect import connect, load_client
    from otahsm.cli.sources import devices_from, read_values
    from otahsm.client import Batch, BatchClient, IdScheme

    settings = load_client(config)
    source = devices_from(count, ids, uuid5, template, first, values)
    scheme = IdScheme(source.kind, uuid5 or template, first, source.digest, read_values(values or ()))
    ends = deadline and deadline.replace(tzinfo=UTC)
    wanted = Batch(name, source.count, scheme, profile, ends, tuple(clients or ()))

    async def run() -> Batch:
        async with connect(BatchClient, settings, patience) as client:
            return await client.create(wanted)

    print_batch(asyncio.run(run()), as_json=as_json)


@app.command()
def run(
    name: NameArgument,
    ids: IdsOption = None,
    out: OutOption = None,
    layout: LayoutOption = LayoutChoice.SEED,
    key_type: Annotated[KeyTypeName, typer.Option(help="Type of the devices' keys.")] = KeyTypeName.EC_P256,
    passphrase_file: PassphraseFileOption = None,
    passphrase_command: PassphraseCommandOption = "",
    retry_refused: RetryRefusedOption = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make the devices of a batch: keys, certificates, folders, as `otahsm device issue` does.

    The same command again goes on, also on another machine: what was issued elsewhere is left out. A batch
    of a file needs the same file (--ids).

    Exit codes: as `otahsm device issue`. 1 also if the batch is full or closed before all its devices are.

    \b
    Examples:
      otahsm batch run cameras-47
      otahsm batch run meters-12 --ids meters.csv --out /srv/line-3 --layout tar
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.batch_run import run_batch
    from otahsm.cli.connect import load_client, registers
    from otahsm.cli.progress import OutputMode
    from otahsm.system.secret_files import passphrase_from

    done = run_batch(
        load_client(config),
        name,
        ids,
        out=out,
        layout=layout,
        key_type=key_type.value,
        passphrase=passphrase_from(passphrase_file, passphrase_command),
        retry_refused=retry_refused,
        announce=registers(config),
        patience=patience,
        output_mode=OutputMode(as_json, quiet),
    )
    if not asyncio.run(done):
        raise typer.Exit(1)


@app.command()
def status(
    name: NameArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it is full or closed.")] = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show a batch and how far it is, whoever issues in it.

    \b
    Examples:
      otahsm batch status cameras-47
      otahsm batch status cameras-47 --watch
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.batch_text import follow, print_batch
    from otahsm.cli.connect import connect, load_client
    from otahsm.client import Batch, BatchClient

    settings = load_client(config)

    async def ask() -> Batch:
        async with connect(BatchClient, settings, patience) as client:
            return await (follow(client, name) if watch and not as_json else client.get(name))

    print_batch(asyncio.run(ask()), as_json=as_json)


@app.command("list")
def list_batches(
    patience: PatienceOption = None, as_json: JsonOption = False, config: ConfigOption = DEFAULT_CONFIG
) -> None:
    """List all batches, the oldest first.

    \b
    Example:
      otahsm batch list
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.batch_text import print_line
    from otahsm.cli.connect import connect, load_client
    from otahsm.client import BatchClient

    settings = load_client(config)

    async def ask() -> None:
        async with connect(BatchClient, settings, patience) as client:
            async for batch in client.everything():
                print_line(batch, as_json=as_json)

    asyncio.run(ask())


@app.command()
def close(
    name: NameArgument,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let nothing more be issued in a batch, for good. What was issued stays.

    \b
    Example:
      otahsm batch close cameras-47
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.batch_text import print_batch
    from otahsm.cli.connect import connect, load_client
    from otahsm.client import Batch, BatchClient

    settings = load_client(config)

    async def ask() -> Batch:
        async with connect(BatchClient, settings, patience) as client:
            return await client.close_batch(name)

    print_batch(asyncio.run(ask()), as_json=as_json)


@app.command()
def report(
    name: NameArgument,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page there.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a line for each certificate there.")] = None,
    devices: OutOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Report on a batch: counts, failures and their reasons, serial numbers, checkpoint, throughput.

    Certificates are those of the ledger, whoever asked for them; failures are those of the devices folder
    here. Without --html and --csv the sum is printed. A file that exists is not written over.

    \b
    Example:
      otahsm batch report cameras-47 --html cameras-47.html --csv cameras-47.csv
    """  # noqa: D301 - click reads the character, not the escape
    import asyncio

    from otahsm.cli.batch_reporting import write_report
    from otahsm.cli.connect import load_client

    settings = load_client(config)
    asyncio.run(
        write_report(settings, name, html, csv, devices or settings.devices, patience, as_json=as_json)
    )
