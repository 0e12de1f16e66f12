"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="OTAHSM_CONFIG", help="The configuration file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for machines to standard output.")]
ProfileOption = Annotated[str, typer.Option(help="Profile to issue under. Empty: the daemon's default.")]
PatienceOption = Annotated[
    float | None,
    typer.Option(
        min=0, help="Seconds to keep trying while nothing works. Default: [client] patience_seconds."
    ),
]
ResumeOption = Annotated[
    bool, typer.Option(help="Go on with an unfinished run of the same command, or forget it and start anew.")
]
RetryRefusedOption = Annotated[
    bool, typer.Option("--retry-refused", help="Ask again for what an earlier run was refused.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Where device folders go. Default: [client] devices.")
]

DEFAULT_CONFIG = Path("otahsm.toml")


class KeyTypeName(StrEnum):
    """Key types, as choices on the command line."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"
