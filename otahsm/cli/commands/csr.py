"""`otahsm csr`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.connect import LayoutOption, connect, find_profile, load_client, open_folders, registers
from otahsm.cli.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    OutOption,
    PatienceOption,
    ProfileOption,
    QuietOption,
    ResumeOption,
    RetryRefusedOption,
)
from otahsm.cli.output.progress import OutputMode, RunProgress
from otahsm.errors import ConfigError
from otahsm.line import IssueOptions, Run, sign_csrs

_ENDINGS = {".csr", ".pem", ".der", ".req", ".p10"}


def sign(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|DIR...", help="CSRs in PEM or DER, or folders of them.")
    ],
    out: OutOption = None,
    layout: LayoutOption = "seed",
    profile: ProfileOption = "",
    resume: ResumeOption = True,
    retry_refused: RetryRefusedOption = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Request certificates for CSRs, such as of keys in the devices. Writes device folders without keys.

    In a folder, and in folders in it, files that end in .csr, .pem, .der, .req or .p10 are used.

    Run the same command again to finish what an interrupted run left, as with `otahsm device issue`.

    Exit codes: as `otahsm device issue`.

    \b
    Examples:
      otahsm csr sign device-17.csr
      otahsm csr sign collected/ -o signed/
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_client(config)
    files = list(_files(paths))
    if not files:
        raise ConfigError(
            "no CSR found in the paths given",
            hint=f"In a folder, files that end in {', '.join(sorted(_ENDINGS))} are used.",
        )

    named = [str(path.absolute()) for path in paths]
    asked = ["csr sign", *named, "--profile", profile, "--layout", layout]

    async def run() -> bool:
        async with (
            connect(settings, patience) as client,
            open_folders(client.issuance, settings, out, layout) as folders,
        ):
            await find_profile(client.issuance, profile)
            run = Run.open(folders, asked, resume=resume, retry_refused=retry_refused)
            if registers(config):
                run.announce(profile)
            reports = sign_csrs(client.issuance, folders, files, IssueOptions(profile=profile), run=run)
            return await RunProgress(len(files), folders.root, OutputMode(as_json, quiet)).follow(
                reports, run
            )

    if not asyncio.run(run()):
        raise typer.Exit(1)


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in dict.fromkeys(paths):
        if path.is_dir():
            yield from sorted(
                file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file()
            )
        else:
            yield path
