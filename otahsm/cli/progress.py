"""Follows a run of the line: a bar on a terminal, JSON lines for machines; every failure, always."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from otahsm.cli.tables import printable
from otahsm.client import DeviceFolders, Done, Failed, Order, unfinished_counts
from otahsm.pki import serial_octets


def tell_of_unfinished_counts(folders: DeviceFolders, asked: Sequence[str]) -> None:
    """Say on standard error which other `--count` runs wait to be finished; this one does not."""
    for other in unfinished_counts(folders):
        if other != asked:
            typer.echo(f"otahsm: an earlier run is not finished: {' '.join(filter(None, other))}", err=True)


class Run:
    """One run, as its user sees it.

    Args:
        total: how many reports will come.
        as_json: write a JSON object a line to standard output, instead of text.
        folder: where device folders go.
    """

    def __init__(self, total: int, folder: Path, *, as_json: bool) -> None:
        self._total = total
        self._folder = folder
        self._as_json = as_json
        self._out = Console(soft_wrap=True, highlight=False, emoji=False)
        self._err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        self._issued = self._before = self._failed = 0

    async def follow(self, reports: AsyncIterator[Done | Failed], order: Order) -> bool:
        """Show reports as they come, then the sum; return whether nothing failed: the order is done then."""
        started = time.monotonic()
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f}/s"),
            TimeRemainingColumn(),
            console=self._err,
            disable=self._as_json or not self._err.is_terminal,
        )
        try:
            with progress:
                task = progress.add_task("certificates", total=self._total, rate=0.0)
                async for report in reports:
                    self._count(report)
                    seen = self._issued + self._before + self._failed
                    rate = seen / max(time.monotonic() - started, 1e-9)
                    progress.update(task, completed=seen, rate=rate)
        finally:
            self._summarise(time.monotonic() - started)
        if self._failed:
            return False
        order.remove()
        return True

    def _count(self, report: Done | Failed) -> None:
        if isinstance(report, Failed):
            self._failed += 1
            refusal = report.refusal
            self._line(
                {
                    "type": "failed",
                    "name": report.name,
                    "code": refusal.code,
                    "reason": refusal.reason,
                    "message": refusal.message,
                    "hint": refusal.hint,
                    "remembered": report.remembered,
                }
            )
            if not self._as_json:
                text = f"failed: {report.name!r}: {refusal.message} [{refusal.reason}]. {refusal.hint}"
                if report.remembered:
                    text += " (An earlier run was refused; --retry-refused asks again.)"
                self._err.print(printable(text), markup=False)
        elif report.serial is None:
            self._before += 1
            self._line({"type": "complete", "device_id": report.name, "folder": str(report.folder)})
        else:
            self._issued += 1
            self._line(
                {
                    "type": "issued",
                    "device_id": report.name,
                    "serial": serial_octets(report.serial).hex(),
                    "folder": str(report.folder),
                    "replayed": report.replayed,
                }
            )

    def _summarise(self, seconds: float) -> None:
        self._line(
            {
                "type": "summary",
                "issued": self._issued,
                "complete_before": self._before,
                "failed": self._failed,
                "seconds": round(seconds, 3),
                "folder": str(self._folder),
            }
        )
        if self._as_json:
            return
        text = f"{self._issued} issued in {seconds:.1f} s ({self._issued / max(seconds, 1e-9):.0f} a second)"
        if self._before:
            text += f", {self._before} complete before"
        self._out.print(f"{text}, {self._failed} failed; folders in {self._folder}", markup=False)

    def _line(self, fields: dict[str, str | int | float]) -> None:
        if self._as_json:
            typer.echo(json.dumps(fields))  # flushed, line by line
