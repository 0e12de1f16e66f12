"""`otahsm batch report`: from the ledger, and from the devices folder here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from otahsm.cli.commands.batch.text import NameArgument, fields_of
from otahsm.cli.connect import connect, load_client
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, DevicesOption, JsonOption, PatienceOption
from otahsm.cli.output.fields import print_fields, print_json
from otahsm.cli.output.files import new_file, write_new
from otahsm.client import Batch, LedgerEntry, Query, Refusal, TransparencyClient
from otahsm.config import ClientConfig
from otahsm.errors import ConfigError
from otahsm.line import Tally, refusals_of, report_html, report_row
from otahsm.system.csv_cells import csv_line

_COLUMNS: Final = ("device_id", "serial", "status", "issued_at", "not_after", "client")


async def write_report(
    settings: ClientConfig,
    name: str,
    html: Path | None,
    table: Path | None,
    devices: Path,
    patience: float | None,
    *,
    as_json: bool,
) -> None:
    """Write the files asked for, or print a summary. Raises OtahsmError."""
    tally = Tally()
    async with connect(settings, patience) as client:
        batch = await client.batches.get(name)
        entries = client.ledger.everything(Query(batch=name))
        with new_file(table) if table else contextlib.nullcontext() as file:
            if file:
                file.write(csv_line(_COLUMNS))
            async for entry in _issued(entries):
                tally.add(entry)
                if file:
                    file.write(csv_line(report_row(entry)))
        failures = refusals_of(devices, ["batch run", name])
        checkpoint = await _checkpoint(client.transparency)
    if html:
        write_new(html, report_html(batch, tally, failures, checkpoint, datetime.now(UTC)).encode())
    if as_json:
        print_json(_summary(batch, tally, failures, checkpoint))
    elif html or table:
        print_fields(f"Batch {name}", {"page": str(html or ""), "table": str(table or "")})
    else:
        print_fields(f"Batch {name}", _sum(batch, tally, failures))


async def _issued(entries: AsyncIterator[LedgerEntry]) -> AsyncIterator[LedgerEntry]:
    async for entry in entries:
        if entry.issued_at is not None:
            yield entry


async def _checkpoint(transparency: TransparencyClient) -> str:
    """Get a checkpoint of what the ledger holds now; empty if the daemon has no [checkpoint]."""
    try:
        return (await transparency.checkpoint(make_new=True)).decode()
    except ConfigError:
        return ""


def _sum(batch: Batch, tally: Tally, failures: list[tuple[str, Refusal]]) -> dict[str, str]:
    fields = {"issued": f"{tally.issued} of {batch.device_count}", "failed here": str(len(failures))}
    for label, entry in (("first serial", tally.first), ("last serial", tally.last)):
        if entry is not None:
            fields[label] = entry.serial.hex()
    return fields


def _summary(
    batch: Batch, tally: Tally, failures: list[tuple[str, Refusal]], checkpoint: str
) -> dict[str, Any]:
    return {
        "batch": fields_of(batch),
        "issued": tally.issued,
        "by_client": dict(tally.clients),
        "failures": [
            {"name": name, "code": refusal.code, "reason": refusal.reason, "message": refusal.message}
            for name, refusal in failures
        ],
        "checkpoint": checkpoint,
    }


def report(
    name: NameArgument,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page to this file.")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write a CSV line for each certificate to this file.")
    ] = None,
    devices: DevicesOption = None,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Report on a batch: counts, failures and their reasons, serial numbers, checkpoint, throughput.

    Certificates come from the ledger, whoever requested them; failures come from the devices folder on this
    machine. Without --html and --csv, a summary is printed. Existing files are not overwritten.

    \b
    Example:
      otahsm batch report cameras-47 --html cameras-47.html --csv cameras-47.csv
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_client(config)
    asyncio.run(
        write_report(settings, name, html, csv, devices or settings.devices, patience, as_json=as_json)
    )
