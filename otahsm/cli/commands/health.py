"""`otahsm health`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from otahsm.cli.connect import connect, load_client
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_outcome, printable
from otahsm.cli.output.times import show_time
from otahsm.client import Job
from otahsm.errors import ConfigError, NotAllowedError, OtahsmError, TokenUnavailableError


def health(
    config: ConfigOption = DEFAULT_CONFIG,
    wait: Annotated[float, typer.Option(help="How many seconds to wait until the daemon serves.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check whether the daemon can sign now: exit with 0 if so, else with 3, and print why.

    If it can't be asked, because the configuration here is wrong, exit with 2.

    Jobs of a serving daemon that fail (CRLs, checkpoints, audit) are listed on standard error.
    """
    settings = load_client(config)

    async def ask() -> tuple[Job, ...] | None:
        async with connect(settings, patience=0) as client:
            if not await client.wait_until_serving(wait):
                reason = (await client.issuance.authority()).not_serving_reason
                raise TokenUnavailableError(f"the daemon runs, but can't sign now: {reason}")
            try:
                return (await client.issuance.authority()).jobs
            except NotAllowedError:  # a client without a role may only ask whether it serves
                return None

    try:
        jobs = asyncio.run(ask())
    except OtahsmError as error:
        # Without a usable [client] section nobody has asked it.
        text, serving = ("UNKNOWN", None) if isinstance(error, ConfigError) else ("NOT_SERVING", False)
        print_outcome(text, as_json=as_json, serving=serving, reason=error.reason, message=error.message)
        raise
    shown = None if jobs is None else [job._asdict() for job in jobs]
    print_outcome("SERVING", as_json=as_json, serving=True, jobs=shown)
    for job in jobs or ():
        if job.failing_reason:
            since = show_time(job.failing_since)
            typer.echo(f"{job.name} has failed since {since}: {printable(job.failing_reason)}", err=True)
