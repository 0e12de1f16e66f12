"""`otahsm batch run`: a batch's devices here, but not those that were made elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path

import typer

from otahsm.cli.commands.batch.text import NameArgument, state_of
from otahsm.cli.connect import (
    DeviceKeyTypeOption,
    LayoutOption,
    connect,
    issue_options,
    load_client,
    open_folders,
    registers,
)
from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    IdsOption,
    JsonOption,
    OutOption,
    PassphraseCommandOption,
    PassphraseFileOption,
    PatienceOption,
    QuietOption,
    RetryRefusedOption,
)
from otahsm.cli.output.progress import OutputMode, RunProgress
from otahsm.cli.sources import devices_of
from otahsm.client import Batch
from otahsm.config import ClientConfig
from otahsm.errors import BatchClosedError, BatchFullError, ConfigError
from otahsm.line import (
    Device,
    Done,
    Failed,
    LayoutName,
    Run,
    issue_devices,
    leave_out_others,
    random_devices,
)
from otahsm.pki.keytypes import KeyType
from otahsm.system.secret_files import passphrase_from


async def run_batch(
    settings: ClientConfig,
    name: str,
    ids: Path | None,
    *,
    out: Path | None,
    layout: LayoutName,
    key_type: KeyType,
    passphrase: bytes | None,
    retry_refused: bool,
    announce: bool,
    patience: float | None,
    output_mode: OutputMode,
) -> bool:
    """Make a batch's devices; return whether it has all its certificates now. Raises OtahsmError."""
    async with connect(settings, patience) as client:
        batch = await client.batches.get(name)
        devices = _if_open(batch, _devices(batch, ids))
        options = await issue_options(
            client.issuance, batch.profile, layout, key_type, passphrase, batch.name
        )
        async with open_folders(client.issuance, settings, out, layout, passphrase) as folders:
            drawn = batch.scheme.kind == "uuid4"
            asked = ["batch run", batch.name]
            run = Run.open(folders, asked, devices, drawn=drawn, retry_refused=retry_refused)
            if not drawn:
                await leave_out_others(client, run, folders, batch.name)
            if announce:
                run.announce(batch.profile)
            reports = issue_devices(client.issuance, folders, run.devices(), options, run=run)
            unneeded: list[str] = []
            progress = RunProgress(run.count, folders.root, output_mode)
            done = await progress.follow(_noting_unneeded(reports, unneeded), run)
            state = await client.batches.get(name)
            full = state.issued >= state.device_count
            if full and not done:  # another machine was faster with some of them
                if drawn:
                    for device_id in unneeded:
                        folders.discard(device_id)
                    run.leave_out(unneeded)
                else:
                    await leave_out_others(client, run, folders, batch.name)
                if done := run.is_settled:
                    run.end()
    if not (output_mode.as_json or output_mode.quiet):
        typer.echo(f"batch {name}: {state.issued} of {state.device_count} issued, here and elsewhere")
    return full and done


def _devices(batch: Batch, ids: Path | None) -> Iterable[Device]:
    """Return the devices of a batch, if an earlier run here has not begun it.

    Raises:
        ConfigError: it needs another file.
    """
    if batch.scheme.kind == "uuid4" and ids is None:
        return random_devices(batch.remaining, batch.scheme.values)
    if batch.scheme.kind != "template" and ids is None:
        raise ConfigError(
            f"the batch {batch.name} was ordered from a file of devices", hint="Name that file with --ids."
        )
    devices = devices_of(batch.scheme, ids, batch.device_count)
    if devices.digest != batch.scheme.digest:
        raise ConfigError(
            f"these are not the devices that the batch {batch.name} was ordered for",
            hint="Name the file it was ordered from with --ids; for other devices, order another batch.",
        )
    return devices


def _if_open(batch: Batch, devices: Iterable[Device]) -> Iterator[Device]:
    """Yield the devices of a new run; one that was begun may get what was issued before the batch ended.

    Raises:
        BatchClosedError: nothing more is issued in the batch.
    """
    ends = {
        "closed": f"the batch {batch.name} is closed",
        "late": f"the deadline of the batch {batch.name} has passed",
    }
    if why := ends.get(state_of(batch)):
        raise BatchClosedError(why)
    yield from devices


async def _noting_unneeded(
    reports: AsyncGenerator[Done | Failed, None], unneeded: list[str]
) -> AsyncGenerator[Done | Failed, None]:
    """Note the devices for which there is no room in the batch any more.

    Others that failed may have certificates of which we have not heard: their keys are kept.
    """
    async with contextlib.aclosing(reports):
        async for report in reports:
            if isinstance(report, Failed) and isinstance(report.refusal.error, BatchFullError):
                unneeded.append(report.name)
            yield report


def run(
    name: NameArgument,
    ids: IdsOption = None,
    out: OutOption = None,
    layout: LayoutOption = "seed",
    key_type: DeviceKeyTypeOption = "ec-p256",
    passphrase_file: PassphraseFileOption = None,
    passphrase_command: PassphraseCommandOption = "",
    retry_refused: RetryRefusedOption = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make the devices of a batch: keys, certificates and folders, as `otahsm device issue` does.

    Run it again to continue, on another machine too: what was issued elsewhere is skipped. A batch ordered
    from a file needs the same file (--ids).

    Exit codes: as `otahsm device issue`. Also 1 if the batch is full or closed before all its devices are
    made.

    \b
    Examples:
      otahsm batch run cameras-47
      otahsm batch run meters-12 --ids meters.csv -o /srv/line-3 --layout tar
    """  # noqa: D301 - click reads the character, not the escape
    done = run_batch(
        load_client(config),
        name,
        ids,
        out=out,
        layout=layout,
        key_type=key_type,
        passphrase=passphrase_from(passphrase_file, passphrase_command),
        retry_refused=retry_refused,
        announce=registers(config),
        patience=patience,
        output_mode=OutputMode(as_json, quiet),
    )
    if not asyncio.run(done):
        raise typer.Exit(1)
