"""`otahsm ledger`, as far as a daemon is asked. What works on the database itself is in `ledger_local`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from asn1crypto import pem

from otahsm.cli.commands.ledger.options import (
    AfterOption,
    BatchOption,
    BeforeOption,
    ClientOption,
    DeviceOption,
    OnlyProfileOption,
    StatusOption,
)
from otahsm.cli.commands.ledger.text import FORMS, TABLE, fields_of, line_of
from otahsm.cli.connect import ask
from otahsm.cli.first import first
from otahsm.cli.inputs import period_of, serial_of
from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    LastOption,
    OutputOption,
    PatienceOption,
)
from otahsm.cli.output.fields import print_fields, print_json
from otahsm.cli.output.files import new_file, standard_output, write_output
from otahsm.cli.output.tables import Column, Table
from otahsm.client import Client, LedgerEntry, Query

_LIMIT: Final = 100

_COUNTS: Final = Table(
    Column("day", 10),
    Column("certificates", 12, right=True),
    Column("status", 10),
    Column("client"),
    Column("policy client"),
    Column("profile"),
)


def list_(
    device_id: DeviceOption = "",
    client: ClientOption = "",
    profile: OnlyProfileOption = "",
    batch: BatchOption = "",
    status: StatusOption = None,
    after: AfterOption = "",
    before: BeforeOption = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"The most to list, oldest first. Default: {_LIMIT}.")
    ] = None,
    last: LastOption = None,
    page_token: Annotated[str, typer.Option(help="Continue where an earlier list ended.")] = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """List certificates, and intents without one, oldest first.

    If there may be more, the token of the next page is printed to standard error, and is in --json. It
    doesn't expire; use it with the same options.

    \b
    Examples:
      otahsm ledger list --last 20
      otahsm ledger list --client cn:line-3 --after 2026-11-23
      otahsm ledger list --device-id sensor-17
      otahsm ledger list --status void --json
      otahsm ledger list --batch cameras-47 --limit 1000
    """  # noqa: D301 - click reads the character, not the escape
    if last is not None and limit is not None:
        raise typer.BadParameter("give either --last or --limit")
    query = _query(device_id, client, profile, batch, status, after, before)
    query = replace(query, newest_first=last is not None)
    count = last or limit or _LIMIT
    entries, token = ask(config, patience, lambda daemon: _first(daemon, query, page_token, count))
    if as_json:
        found = [{name: text for name, text in fields_of(entry).items() if text} for entry in entries]
        print_json({"certificates": found, "next_page_token": token})
        return
    TABLE.print_heading()
    for entry in entries:
        typer.echo(line_of(entry))
    if token:
        order = "" if last is None else f"--last {last} "
        typer.echo(f"There may be more: {order}--page-token {token}", err=True)


def get(
    device_id: Annotated[str, typer.Argument(help="The device. To find what was voided, use --serial.")] = "",
    serial: Annotated[str, typer.Option(help="A serial number instead, in hexadecimal.")] = "",
    profile: Annotated[str, typer.Option(help="The device's profile. Default: the daemon's.")] = "",
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the chain to this file; it must not exist.")
    ] = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show one certificate, all that the ledger knows about it, and its chain in PEM.

    Exits with 1 if the ledger has no such certificate.

    \b
    Examples:
      otahsm ledger get sensor-17
      otahsm ledger get --serial 019c2f0a11d7 --json
      otahsm ledger get sensor-17 --output sensor-17.pem
    """  # noqa: D301 - click reads the character, not the escape
    if bool(device_id) == bool(serial):
        raise typer.BadParameter("give either a device id or --serial")
    if serial and profile:
        raise typer.BadParameter("--profile is a device's: give it with a device id, not with --serial")
    number = serial_of(serial, "--serial") if serial else None

    def find(daemon: Client) -> Awaitable[tuple[LedgerEntry, tuple[bytes, ...]]]:
        return daemon.ledger.by_serial(number) if number else daemon.ledger.by_device(device_id, profile)

    entry, chain = ask(config, patience, find)
    text = "".join(pem.armor("CERTIFICATE", der).decode() for der in chain)
    if out is not None:
        write_output(out, text.encode())
    fields = {name: value for name, value in fields_of(entry).items() if value and name != "certificate"}
    if as_json:
        print_json({**fields, "chain": text} if text else fields)
        return
    print_fields("Certificate", fields)
    if out is None:
        typer.echo(text, nl=False)


def export(
    form: Annotated[
        Literal["csv", "jsonl", "pem"],
        typer.Option("--format", help="csv and jsonl: everything. pem: only certificates."),
    ] = "csv",
    out: OutputOption = None,
    device_id: DeviceOption = "",
    client: ClientOption = "",
    profile: OnlyProfileOption = "",
    batch: BatchOption = "",
    status: StatusOption = None,
    after: AfterOption = "",
    before: BeforeOption = "",
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Export the ledger with its certificates, oldest first, for auditors.

    Serial numbers and digests are in hexadecimal, times in RFC 3339 and UTC, certificates are DER in base64.
    The file gets its name when it is complete. It has everything that was in the ledger when the command
    began, and may have what was issued since.

    \b
    Examples:
      otahsm ledger export --output ledger.csv
      otahsm ledger export --format jsonl --client cn:line-3 --after 2026-11-01 --before 2026-12-01
    """  # noqa: D301 - click reads the character, not the escape
    query = _query(device_id, client, profile, batch, status, after, before)
    head, write = FORMS[form]

    async def write_all(daemon: Client) -> None:
        with new_file(out) if out is not None else standard_output() as file:
            everything = daemon.ledger.everything(query, full=True)
            async for entry in first(everything, None, lambda: file.write(head)):
                file.write(write(entry))

    ask(config, patience, write_all)


def stats(
    after: AfterOption = "",
    before: BeforeOption = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Count certificates by day (UTC), profile, client and status. Takes a second or two per million.

    A client is shown as its certificate or key names it, and by its name in the policy.

    \b
    Example:
      otahsm ledger stats --after 2026-11-01
    """  # noqa: D301 - click reads the character, not the escape
    query = _query("", "", "", "", None, after, before)
    counts = ask(config, patience, lambda daemon: daemon.ledger.counts(query))
    if as_json:
        print_json([{**count._asdict(), "day": f"{count.day}"} for count in counts])
        return
    _COUNTS.print_heading()
    for day, profile, client, status, number, policy_client in counts:
        _COUNTS.print(f"{day}", f"{number}", status, client, policy_client, profile)


async def _first(daemon: Client, query: Query, token: str, limit: int) -> tuple[list[LedgerEntry], str]:
    """Return up to `limit` entries, from as many pages as it takes, and the token of the next page."""
    entries: list[LedgerEntry] = []
    while True:
        page, token = await daemon.ledger.page(query, token, size=min(limit - len(entries), 1000))
        entries += page
        if not token or len(entries) == limit:
            return entries, token


def _query(
    device_id: str,
    client: str,
    profile: str,
    batch: str,
    status: str | None,
    after: str,
    before: str,
) -> Query:
    return Query(device_id, client, profile, status or "", *period_of(after, before), batch)
