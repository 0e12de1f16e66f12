"""`otahsm batch run`: a batch's devices here, but not those that were made elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

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
from otahsm.client import Batch, LedgerClient, LedgerEntry, Query
from otahsm.config import ClientConfig
from otahsm.errors import BatchClosedError, ConfigError, RequestRefusedError
from otahsm.line import (
    Device,
    DeviceFolders,
    LayoutName,
    Run,
    issue_devices,
    public_key_sha256,
    random_devices,
)
from otahsm.pki.keytypes import KeyType
from otahsm.pki.serial import SerialNumber
from otahsm.system.secret_files import passphrase_from

_PAGE: Final = 500


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
                await _leave_out_others(run, folders, client.ledger, batch.name)
            if announce:
                run.announce(batch.profile)
            reports = issue_devices(client.issuance, folders, run.devices(), options, run=run)
            done = await RunProgress(run.count, folders.root, output_mode).follow(reports, run)
            state = await client.batches.get(name)
            full = state.issued >= state.device_count
            if full and not done:  # another machine was faster with some of them
                if drawn:
                    for device in run.devices():
                        folders.discard(device.device_id)
                else:
                    await _leave_out_others(run, folders, client.ledger, batch.name)
                run.end()
    if not (output_mode.as_json or output_mode.quiet):
        typer.echo(f"batch {state.name}: {state.issued} of {state.device_count} issued, here and elsewhere")
    return full


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


async def _leave_out_others(run: Run, folders: DeviceFolders, ledger: LedgerClient, name: str) -> None:
    """Record as done what the ledger says was issued in the batch for keys that are not here.

    If another machine was faster with a device, the key made for it here is discarded: it has no certificate
    and will get none.
    """
    elsewhere: dict[str, SerialNumber] = {}
    async for entry in ledger.everything(Query(batch=name)):
        if entry.issued_at is not None and not _is_ours(folders, entry):
            folders.discard(entry.device_id)
            elsewhere[entry.device_id] = entry.serial
        if len(elsewhere) >= _PAGE:
            run.record_elsewhere(elsewhere)
            elsewhere.clear()
    run.record_elsewhere(elsewhere)


def _is_ours(folders: DeviceFolders, entry: LedgerEntry) -> bool:
    """Return whether a device is complete here, or its certificate is for a key that is here."""
    if folders.is_complete(entry.device_id):
        return True
    try:
        csr = folders.saved_csr(entry.device_id)
    except RequestRefusedError:
        return True  # issuing reports it when its turn comes
    return csr is not None and public_key_sha256(csr) == entry.public_key_sha256


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
