"""`otahsm ledger` where the ledger is: what works on the database itself, with or without a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import typer

from otahsm.cli.commands.ledger.options import AfterOption
from otahsm.cli.commands.ledger.text import FORMS
from otahsm.cli.inputs import moment_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.output.files import standard_output
from otahsm.cli.settings import load_config
from otahsm.client import LedgerEntry
from otahsm.config import Config, section
from otahsm.daemon.wire.ledger import certificate_message
from otahsm.ledger import CertificateRecord, Filter, LedgerReader, Status

_SIGNING_SECONDS: Final = 90.0  # where there is no [token] that says how long


def reconcile(
    form: Annotated[
        Literal["text", "csv", "jsonl"], typer.Option("--format", help="The format of the report.")
    ] = "text",
    after: AfterOption = "",
    open_seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="How many seconds an intent may be open. Default: twice what a signature may take."
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show every serial number that was intended but never released: first the open ones, then the voided.

    Reads the database that [ledger] names, with or without a daemon, and changes nothing. Exits with 1 if an
    intent has been open for longer than a signature may take: no daemon runs, or it is stuck.

    \b
    Examples:
      otahsm ledger reconcile
      otahsm ledger reconcile --format csv > never-released.csv
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    since = moment_of(after, "--after")
    milliseconds = None if since is None else int(since.timestamp() * 1000)
    limit = _signing_seconds(settings) if open_seconds is None else open_seconds
    head, write = FORMS[form]
    reader = LedgerReader(section(settings.ledger, "ledger"))
    reader.check()
    counts = {Status.OPEN: 0, Status.VOID: 0}
    oldest = 0.0
    with standard_output() as out:
        out.write(head)
        for record in _never_released(reader, Filter(after=milliseconds)):
            out.write(write(LedgerEntry.from_message(certificate_message(record))))  # as a client sees it
            counts[record.status] += 1
            if record.status is Status.OPEN:
                oldest = max(oldest, time.time() - record.intended_at / 1e6)
    reader.close()
    summary = f"{counts[Status.OPEN]} open, {counts[Status.VOID]} void"
    if oldest > limit:
        typer.echo(
            f"{summary}; one has been open for {oldest:.0f} s, and a signature takes at most {limit:.0f} s",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(summary, err=True)


def _never_released(reader: LedgerReader, criteria: Filter) -> Iterator[CertificateRecord]:
    shown = set()  # what is open may be voided before the voided ones are read
    for record in reader.everything(criteria._replace(status=Status.OPEN)):
        shown.add(record.serial)
        yield record
    for record in reader.everything(criteria._replace(status=Status.VOID)):
        if record.serial not in shown:
            yield record


def _signing_seconds(settings: Config) -> float:
    """Return how many seconds an intent may be open: each of two tries waits for a signer."""
    if settings.token is None:
        return _SIGNING_SECONDS
    return 2 * (settings.token.sign_timeout_seconds + settings.issuance.wait_for_signer_seconds)
