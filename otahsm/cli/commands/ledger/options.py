"""Options that commands of `otahsm ledger` share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

DeviceOption = Annotated[str, typer.Option(help="Only this device.")]
ClientOption = Annotated[
    str,
    typer.Option(help="Only what this client requested: cn:line-3, or its name in the policy."),
]
OnlyProfileOption = Annotated[str, typer.Option("--profile", help="Only this profile.")]
BatchOption = Annotated[str, typer.Option("--batch", help="Only this batch.")]
StatusOption = Annotated[
    Literal["open", "issued", "superseded", "revoked", "void"] | None, typer.Option(help="Only this status.")
]
AfterOption = Annotated[
    str,
    typer.Option(help="Only what was requested at or after this time: 2026-11-23 or 2026-11-23T07:01:12Z."),
]
BeforeOption = Annotated[
    str, typer.Option(help="Only what was requested before this time; in UTC, as --after.")
]
