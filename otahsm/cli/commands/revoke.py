"""`otahsm revoke`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from otahsm.cli.commands.targets import Targets, read_targets
from otahsm.cli.confirming import ExpectOption, amount, confirm_number
from otahsm.cli.connect import connect, load_client
from otahsm.cli.inputs import serial_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption
from otahsm.cli.output.failures import print_failure
from otahsm.cli.output.fields import print_json_line, printable
from otahsm.cli.output.times import show_time
from otahsm.client import Client, LedgerEntry, NotRevoked, Query, Revoked, ToRevoke
from otahsm.errors import HeldError, NotFoundError
from otahsm.pki.crls.building import Reason

# An open one is being issued: the daemon waits for it, and revokes it.
_REVOCABLE: Final = frozenset({"open", "issued", "superseded"})


def revoke(
    reason: Annotated[Reason, typer.Option(help="Why. It appears on the CRL, and can't be changed.")],
    serial: Annotated[str | None, typer.Option(help="A certificate's serial number, in hexadecimal.")] = None,
    device_id: Annotated[str | None, typer.Option(help="A device: all its certificates.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Many: one device id per line, or CSV with a column device_id or serial."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Only certificates under this profile. Default: all.")] = "",
    expect: ExpectOption = None,
    yes: Annotated[bool, typer.Option("--yes", hidden=True)] = False,
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Revoke certificates for good: a revocation can't be undone.

    It first shows how many certificates it will revoke, and wants that number typed, or --expect N. For a
    file, it is the number of its lines, each device and serial number once; a device may have several
    certificates. If nothing is left to revoke, it asks nothing.

    What is reported as revoked is on the disk, and the daemon makes a new CRL at once. Running the same
    command again does no harm: what was already revoked keeps its date and reason.

    A file whose first line names a column `device_id` or `serial` is read as CSV; other columns are ignored.
    Otherwise each line is a device id.

    What exceeds the quota of `acts_per_day` is held, and not revoked until another operator confirms it with
    `otahsm approve confirm`.

    Exit codes: 0 all are revoked, 1 some failed or are held (each is listed), 2 wrong use or configuration,
    3 can't reach the daemon.

    \b
    Examples:
      otahsm revoke --device-id sensor-17 --reason key_compromise
      otahsm revoke --file stolen.csv --reason privilege_withdrawn --expect 250
    """  # noqa: D301 - click reads the character, not the escape
    if yes:
        raise typer.BadParameter("there is no --yes any more: give the number of certificates, --expect N")
    if sum(given is not None for given in (serial, device_id, file)) != 1:
        raise typer.BadParameter("give one of --serial, --device-id and --file")
    settings = load_client(config)
    targets = _targets(serial, device_id, file, profile)
    shown = _Shown(as_json=as_json)

    if file is not None:
        _confirm_lines(file, targets, reason, expect)

    async def run() -> None:
        async with connect(settings, patience) as client:
            if file is None:
                await _confirm_certificates(client, targets.targets[0], reason, expect)
            try:
                async for outcome in client.revocation.revoke(targets.targets, reason):
                    shown.add(outcome)
            finally:
                shown.sum_up()

    asyncio.run(run())
    if shown.failed or shown.held:
        raise typer.Exit(1)


def _targets(serial: str | None, device_id: str | None, file: Path | None, profile: str) -> Targets:
    if serial is not None:
        return Targets([ToRevoke(serial=serial_of(serial, "--serial"), profile=profile)], 0)
    if file is not None:
        return read_targets(file, profile)
    return Targets([ToRevoke(device_id=device_id or "", profile=profile)], 0)


def _confirm_lines(file: Path, targets: Targets, reason: Reason, expect: int | None) -> None:
    count = len(targets.targets)
    again = f" ({targets.repeated} more name one of them again)" if targets.repeated else ""
    what = f"revoke all certificates that {amount(count, 'line')} of {file} name{again}"
    names = [_name_of(target) for target in targets.targets]
    confirm_number(f"{what}, for the reason {reason}, for good", count, names, expect)


async def _confirm_certificates(client: Client, target: ToRevoke, reason: Reason, expect: int | None) -> None:
    """Confirm the number of certificates of a device or serial number; nothing if none is left to revoke."""
    entries = [entry for entry in await _entries(client, target) if entry.status in _REVOCABLE]
    if not entries:
        return
    count = len(entries)
    what = f"revoke {amount(count, 'certificate')} of {_name_of(target)}, for the reason {reason}, for good"
    sample = [f"{one.serial.hex()} {one.device_id} ({one.profile}, {one.status})" for one in entries]
    confirm_number(what, count, sample, expect)


async def _entries(client: Client, target: ToRevoke) -> list[LedgerEntry]:
    if target.serial is None:
        query = Query(device_id=target.device_id, profile=target.profile)
        return [entry async for entry in client.ledger.everything(query)]
    try:
        entry, _ = await client.ledger.by_serial(target.serial)
    except NotFoundError:  # which is what the daemon says of it, too
        return []
    return [entry] if target.profile in ("", entry.profile) else []


def _name_of(target: ToRevoke) -> str:
    return target.device_id if target.serial is None else target.serial.hex()


class _Shown:
    """Prints what became of each target, and the totals."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.revoked = self.before = self.held = self.failed = 0

    def add(self, outcome: Revoked | NotRevoked) -> None:
        if isinstance(outcome, NotRevoked) and isinstance(outcome.error, HeldError):
            self._hold(_name_of(outcome.target), outcome.error)
            return
        if isinstance(outcome, NotRevoked):
            self.failed += 1
            print_failure(_name_of(outcome.target), outcome.error, as_json=self._as_json)
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

    def _hold(self, name: str, error: HeldError) -> None:
        self.held += 1
        act, lapses = error.metadata.get("act", ""), error.metadata.get("lapses_at", "")
        self._line("held", {"name": name, "act": act, "lapses_at": lapses, "message": error.message})
        if not self._as_json:
            typer.echo(printable(f"held: {name}: {error.message}. {error.hint}"), err=True)

    def sum_up(self) -> None:
        counts = {
            "revoked": self.revoked,
            "already_revoked": self.before,
            "held": self.held,
            "failed": self.failed,
        }
        self._line("summary", counts)
        if not self._as_json and any(counts.values()):
            before = f", {self.before} already revoked" if self.before else ""
            held = f", {self.held} held" if self.held else ""
            typer.echo(f"{self.revoked} revoked{before}{held}, {self.failed} failed")

    def _line(self, kind: str, fields: Mapping[str, object]) -> None:
        if self._as_json:
            print_json_line({"type": kind, **fields})
