"""Options that commands of `otahsm ledger` share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class StatusName(StrEnum):
    """Statuses, as choices on the command line."""

    OPEN = "open"
    ISSUED = "issued"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"
    VOID = "void"


DeviceOption = Annotated[str, typer.Option(help="Only of this device.")]


ClientOption = Annotated[str, typer.Option(help="Only what this client asked for: cn:line-3, say.")]


OnlyProfileOption = Annotated[str, typer.Option("--profile", help="Only under this profile.")]


BatchOption = Annotated[str, typer.Option("--batch", help="Only of this batch.")]


StatusOption = Annotated[StatusName | None, typer.Option(help="Only of this status.")]


AfterOption = Annotated[
    str, typer.Option(help="Only what was intended at this time or later: 2026-11-23, 2026-11-23T07:01:12Z.")
]


BeforeOption = Annotated[str, typer.Option(help="Only what was intended before this time. UTC, as --after.")]
