"""`otahsm device register`: the backend learns of the devices that were issued."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from otahsm.cli.commands.device.registrations import RegistrationRun, show_all
from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    DevicesOption,
    JsonOption,
    PatienceOption,
    QuietOption,
)
from otahsm.cli.output.progress import OutputMode
from otahsm.cli.settings import load_config
from otahsm.config import section
from otahsm.registration.backends import Backend
from otahsm.registration.outbox import Outbox


def register(
    devices: DevicesOption = None,
    status: Annotated[
        bool, typer.Option("--status", help="Show the state of each device; ask nobody.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Keep going with devices that are issued later, until interrupted."),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry what the backend refused.")
    ] = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Register the devices issued on this machine with the backend that [registration] names.

    Run it beside `otahsm device issue` or later, and interrupt it at any time: every device gets its turn. A
    backend that is down is retried with growing pauses, or when it says. A device that it already knows
    counts as registered. What it refuses is kept with its answer; --retry-failed tries it again.

    Exit codes: 0 all are registered, 1 some failed or still wait, 2 wrong use or configuration, or the
    backend refuses the credentials, 3 can't reach the backend, or it is not trusted.

    \b
    Examples:
      otahsm device register
      otahsm device register --status
      otahsm device register --watch --json
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    folder = (devices or section(settings.client, "client").devices).absolute()
    output_mode = OutputMode(as_json, quiet)
    if status:
        with contextlib.closing(Outbox(folder)) as outbox:
            show_all(outbox, output_mode)
        return
    registration = section(settings.registration, "registration")
    if patience is None:
        patience = section(settings.client, "client").patience_seconds
    backend = Backend(registration)
    with contextlib.closing(Outbox(folder, registration.timeout_seconds)) as outbox, outbox:
        if retry_failed:
            outbox.retry_failed()
        run = RegistrationRun(outbox, output_mode)
        if not run.follow(backend, registration.parallel, patience, watch=watch):
            raise typer.Exit(1)
