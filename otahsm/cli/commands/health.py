"""`otahsm health`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from otahsm.cli.connect import connect, load_client
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import printable, tell
from otahsm.client import Job
from otahsm.errors import NotAllowedError, OtahsmError, TokenUnavailableError


def health(
    config: ConfigOption = DEFAULT_CONFIG,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the daemon to serve.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say whether the daemon can sign now; exit with 0 if so, else with 3, and say why on standard error.

    What else fails in a daemon that serves (CRLs, checkpoints, audit) is on standard error, too.
    """
    settings = load_client(config)

    async def ask() -> tuple[Job, ...] | None:
        async with connect(settings, patience=0) as client:
            if not await client.wait_until_serving(wait):
                reason = (await client.issuance.authority()).not_serving_reason
                raise TokenUnavailableError(f"the daemon runs, but can't sign now: {reason}")
            try:
                return (await client.issuance.authority()).jobs
            except NotAllowedError:  # whoever may connect may ask whether it serves, and no more
                return None

    try:
        jobs = asyncio.run(ask())
    except OtahsmError as error:
        tell("NOT_SERVING", as_json=as_json, serving=False, reason=error.reason, message=error.message)
        raise
    shown = None if jobs is None else [job._asdict() | {"failing_since": _date(job)} for job in jobs]
    tell("SERVING", as_json=as_json, serving=True, jobs=shown)
    for job in jobs or ():
        if job.failing_reason:
            typer.echo(f"{job.name} has failed since {_date(job)}: {printable(job.failing_reason)}", err=True)


def _date(job: Job) -> str | None:
    return f"{job.failing_since:%Y-%m-%d %H:%M:%S} UTC" if job.failing_since else None
