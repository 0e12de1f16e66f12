"""`otahsm revoke`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.commands.targets import read_targets
from otahsm.cli.connect import connect, load_client
from otahsm.cli.inputs import serial_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption
from otahsm.cli.output.failures import print_failure
from otahsm.cli.output.fields import print_json_line, printable
from otahsm.cli.output.times import show_time
from otahsm.client import NotRevoked, Revoked, ToRevoke
from otahsm.pki.crls.building import Reason


def revoke(
    reason: Annotated[Reason, typer.Option(help="Why. It appears on the CRL, and can't be changed.")],
    serial: Annotated[str | None, typer.Option(help="A certificate's serial number, in hexadecimal.")] = None,
    device_id: Annotated[str | None, typer.Option(help="A device: all its certificates.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Many: one device id per line, or CSV with a column device_id or serial."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Only certificates under this profile. Default: all.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Revoke certificates for good: a revocation can't be undone.

    What is reported as revoked is on the disk, and the daemon makes a new CRL at once. Running the same
    command again does no harm: what was already revoked keeps its date and reason.

    A file whose first line names a column `device_id` or `serial` is read as CSV; other columns are ignored.
    Otherwise each line is a device id.

    Exit codes: 0 all are revoked, 1 some failed (each is listed), 2 wrong use or configuration, 3 can't reach
    the daemon.

    \b
    Examples:
      otahsm revoke --device-id sensor-17 --reason key_compromise
      otahsm revoke --file stolen.csv --reason privilege_withdrawn --yes
    """  # noqa: D301 - click reads the character, not the escape
    if sum(given is not None for given in (serial, device_id, file)) != 1:
        raise typer.BadParameter("give one of --serial, --device-id and --file")
    settings = load_client(config)
    targets = _targets(serial, device_id, file, profile)
    if not yes:
        _ask(len(targets), serial or device_id or str(file), reason.value)
    shown = _Shown(as_json=as_json)

    async def run() -> None:
        async with connect(settings, patience) as client:
            async for outcome in client.revocation.revoke(targets, reason):
                shown.add(outcome)

    try:
        asyncio.run(run())
    finally:
        shown.sum_up()
    if shown.failed:
        raise typer.Exit(1)


def _targets(
    serial: str | None, device_id: str | None, file: Path | None, profile: str
) -> Sequence[ToRevoke]:
    if serial is not None:
        return [ToRevoke(serial=serial_of(serial, "--serial"), profile=profile)]
    if file is not None:
        return read_targets(file, profile)
    return [ToRevoke(device_id=device_id or "", profile=profile)]


def _ask(count: int, what: str, reason: str) -> None:
    text = f"{count} lines of {what}" if count > 1 else what
    typer.confirm(
        f"Revoke {printable(text)}, for the reason {reason}? This can't be undone.", abort=True, err=True
    )


class _Shown:
    """Prints what became of each target, and the totals."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.revoked = self.before = self.failed = 0

    def add(self, outcome: Revoked | NotRevoked) -> None:
        if isinstance(outcome, NotRevoked):
            self.failed += 1
            target = outcome.target
            name = target.device_id if target.serial is None else target.serial.hex()
            print_failure(name, outcome.error, as_json=self._as_json)
            return
        self.revoked += not outcome.before
        self.before += outcome.before
        serial = outcome.serial.hex()
        moment = show_time(outcome.revoked_at)
        self._line(
            "revoked",
            {
                "device_id": outcome.device_id,
                "profile": outcome.profile,
                "serial": serial,
                "revoked_at": outcome.revoked_at,
                "reason": outcome.reason.value,
                "already_revoked": outcome.before,
            },
        )
        if not self._as_json:
            when = f"was already revoked on {moment}" if outcome.before else f"is revoked since {moment}"
            typer.echo(printable(f"{outcome.device_id}: {serial} {when} ({outcome.reason.value})"))

    def sum_up(self) -> None:
        counts = {"revoked": self.revoked, "already_revoked": self.before, "failed": self.failed}
        self._line("summary", counts)
        if not self._as_json and any(counts.values()):
            before = f", {self.before} already revoked" if self.before else ""
            typer.echo(f"{self.revoked} revoked{before}, {self.failed} failed")

    def _line(self, kind: str, fields: Mapping[str, object]) -> None:
        if self._as_json:
            print_json_line({"type": kind, **fields})
