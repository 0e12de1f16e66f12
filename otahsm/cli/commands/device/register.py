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
from otahsm.config import load_config, section
from otahsm.registration.backends import Backend
from otahsm.registration.outbox import Outbox


def register(
    devices: DevicesOption = None,
    status: Annotated[
        bool, typer.Option("--status", help="Ask nobody; show how it is with each device.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with what is issued later, until interrupted.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again for what the backend refused.")
    ] = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Register the devices that were issued here with the backend that [registration] names.

    It may run beside `otahsm device issue`, or later, and be interrupted: every device gets its turn. A
    backend that is down is asked again, later and later, or when it says. One that knows the device already
    has done its part. What it refuses is kept with its answer, and asked again with --retry-failed.

    Exit codes: 0 all are registered, 1 some failed or still wait, 2 wrong use or configuration, or a token
    that the backend refuses, 3 the backend can't be reached or is not trusted.

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
    wanted = section(settings.registration, "registration")
    if patience is None:
        patience = section(settings.client, "client").patience_seconds
    backend = Backend(wanted)
    with contextlib.closing(Outbox(folder, wanted.timeout_seconds)) as outbox, outbox:
        if retry_failed:
            outbox.retry_failed()
        run = RegistrationRun(outbox, output_mode)
        if not run.follow(backend, wanted.parallel, patience, watch=watch):
            raise typer.Exit(1)
