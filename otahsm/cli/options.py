"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="OTAHSM_CONFIG", help="The configuration file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
ProfileOption = Annotated[str, typer.Option(help="The profile to issue under. Default: the daemon's.")]
PatienceOption = Annotated[
    float | None,
    typer.Option(min=0, help="How many seconds to keep retrying. Default: [client] patience_seconds."),
]
ResumeOption = Annotated[
    bool, typer.Option(help="Continue an unfinished run of the same command, or forget it and start over.")
]
RetryRefusedOption = Annotated[
    bool, typer.Option("--retry-refused", help="Request again what an earlier run was refused.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", "--out", help="The folder to write device folders to. Default: [client] devices."
    ),
]
DevicesOption = Annotated[
    Path | None,
    typer.Option("--devices", "--out", help="The folder with the device folders. Default: [client] devices."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The file to write; it must not exist. Default: standard output."),
]
NewFileOption = Annotated[Path, typer.Option("--output", "-o", help="The file to write; it must not exist.")]
CountOption = Annotated[
    int | None,
    typer.Option(min=1, max=100_000_000, help="How many devices to make; they get random UUIDs."),
]
IdsOption = Annotated[
    Path | None,
    typer.Option(
        "--ids", help="A file of device ids, one per line; or .csv or .jsonl with attributes of each device."
    ),
]
Uuid5Option = Annotated[
    str,
    typer.Option(
        "--uuid5",
        metavar="NAMESPACE",
        help="Make version 5 UUIDs in this namespace from the serial numbers in --ids.",
    ),
]
TemplateOption = Annotated[
    str, typer.Option(help="Make ids from a template, as in 'cam-{seq:06d}' or '{plant}-{serial}'.")
]
FirstOption = Annotated[int, typer.Option(min=0, max=10**18, help="The first {seq} of the template.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An attribute of every device. Repeatable."),
]
PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(help="Encrypt private keys with the passphrase in this file (mode 0600)."),
]
PassphraseCommandOption = Annotated[
    str, typer.Option(help="Encrypt private keys with the passphrase that this command prints.")
]
LastOption = Annotated[
    int | None,
    typer.Option("--last", min=1, help="Only this many, newest first. Default: oldest first."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures only.")]

DEFAULT_CONFIG = Path("otahsm.toml")
