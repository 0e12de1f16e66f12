"""`otahsm device`."""

from __future__ import annotations

import asyncio

import typer

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
    CountOption,
    FirstOption,
    IdsOption,
    JsonOption,
    OutOption,
    PassphraseCommandOption,
    PassphraseFileOption,
    PatienceOption,
    ProfileOption,
    QuietOption,
    ResumeOption,
    RetryRefusedOption,
    SetOption,
    TemplateOption,
    Uuid5Option,
)
from otahsm.cli.output.progress import OutputMode, RunProgress, report_unfinished_runs
from otahsm.cli.sources import devices_from
from otahsm.line import Run, issue_devices
from otahsm.system.secret_files import passphrase_from


def issue(
    count: CountOption = None,
    ids: IdsOption = None,
    uuid5: Uuid5Option = "",
    template: TemplateOption = "",
    first: FirstOption = 1,
    values: SetOption = None,
    out: OutOption = None,
    layout: LayoutOption = "seed",
    key_type: DeviceKeyTypeOption = "ec-p256",
    passphrase_file: PassphraseFileOption = None,
    passphrase_command: PassphraseCommandOption = "",
    profile: ProfileOption = "",
    resume: ResumeOption = True,
    retry_refused: RetryRefusedOption = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make keys on this machine, get certificates for them, and write device folders.

    Ids are random UUIDs (--count), ids from a file (--ids), UUIDs made from serial numbers in a file
    (--uuid5), or made from a template. A file is text with one id per line, CSV with a header, or JSON Lines.
    Its other columns, and what --set gives, are the device's attributes. A profile's subject, a template, the
    device's configuration and its registration can use them.

    Run the same command again to finish what an interrupted run left, with the same ids and keys: --count
    1000 makes a thousand, however often it is interrupted. Devices that were refused are listed again, but
    not requested again. Once every device has its certificate, the same command starts a new run.

    Exit codes: 0 all devices have their certificate, 1 some failed (each is listed), 2 wrong use or
    configuration, 3 can't reach the daemon.

    \b
    Examples:
      otahsm device issue --count 1000
      otahsm device issue --ids serials.csv --uuid5 6ba7b810-9dad-11d1-80b4-00c04fd430c8
      otahsm device issue --count 50 --template 'cam-{seq:06d}' --first 1201
      otahsm device issue --ids units.csv --template '{plant}-{unit}' --layout tar -o /srv/line-3
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_client(config)
    source = devices_from(count, ids, uuid5, template, first, values)
    passphrase = passphrase_from(passphrase_file, passphrase_command)
    made = ["--key-type", key_type, "--profile", profile, "--layout", layout]
    asked = ["device issue", *source.asked, *made]

    async def run() -> bool:
        async with connect(settings, patience) as client:
            options = await issue_options(client.issuance, profile, layout, key_type, passphrase)
            async with open_folders(client.issuance, settings, out, layout, passphrase) as folders:
                report_unfinished_runs(folders, asked)
                run = Run.open(
                    folders,
                    asked,
                    source.devices,
                    drawn=source.drawn,
                    resume=resume,
                    retry_refused=retry_refused,
                )
                if registers(config):
                    run.announce(profile)
                reports = issue_devices(client.issuance, folders, run.devices(), options, run=run)
                return await RunProgress(run.count, folders.root, OutputMode(as_json, quiet)).follow(
                    reports, run
                )

    if not asyncio.run(run()):
        raise typer.Exit(1)
