"""Follows a run: a bar on a terminal, a line now and then in a pipe, JSON lines for machines.

Every failure is always printed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import typer

from otahsm.cli.output.failures import failure_fields, failure_line
from otahsm.cli.output.fields import print_json_line
from otahsm.line import DeviceFolders, Done, Failed, Run, unfinished_runs

_LINE_SECONDS: Final = 10.0


def report_unfinished_runs(folders: DeviceFolders, asked: Sequence[str]) -> None:
    """Print to standard error which other runs with random ids are unfinished."""
    for other in unfinished_runs(folders):
        if list(other) != list(asked):
            command, *options = other
            typer.echo(f"otahsm: an earlier run is unfinished: {command} {shlex.join(options)}", err=True)


@dataclass(frozen=True, slots=True)
class OutputMode:
    """How a command prints: JSON lines, or text, of which `quiet` leaves only failures."""

    as_json: bool = False
    quiet: bool = False


class Meter:
    """Shows progress: a bar if standard error is a terminal, else a line every ten seconds.

    Args:
        what: what is counted, in the plural.
        total: how many there will be.
        output_mode: nothing is shown with JSON or if quiet.
    """

    def __init__(self, what: str, total: int, output_mode: OutputMode) -> None:
        self._what, self._total = what, total
        self._silent = output_mode.as_json or output_mode.quiet
        self._bar = None
        if not self._silent and _draws():
            from otahsm.cli.output.bar import Bar  # noqa: PLC0415 - see there

            self._bar = Bar(what, total)
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: int, worked: int) -> None:
        """Show the progress.

        Args:
            done: how many there are.
            worked: how many of them took their time in this run; the rate is theirs.
        """
        now = time.monotonic()
        rate = worked / max(now - self._started, 1e-9)
        if self._bar:
            self._bar.show(done, rate)
        elif not self._silent and now - self._told >= _LINE_SECONDS:
            self._told = now
            left = f", {(self._total - done) / rate:.0f} s left" if rate else ""
            self.say(f"{done} of {self._total} {self._what}, {rate:.0f} a second{left}")

    def say(self, text: str) -> None:
        """Print a line to standard error, beside what is shown."""
        if self._bar:
            self._bar.say(text)
        else:
            typer.echo(text, err=True)


def _draws() -> bool:
    """Return whether standard error is a terminal that can draw."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}


class RunProgress:
    """One run, as its user sees it.

    Args:
        total: how many reports will come.
        folder: where device folders go.
        output_mode: how to print.
    """

    def __init__(self, total: int, folder: Path, output_mode: OutputMode) -> None:
        self._folder = folder
        self._output_mode = output_mode
        self._meter = Meter("certificates", total, output_mode)
        self._issued = self._before = self._failed = 0

    async def follow(self, reports: AsyncGenerator[Done | Failed, None], run: Run) -> bool:
        """Show reports as they come, then the totals; return whether nothing failed, which ends the run."""
        started = time.monotonic()
        try:
            with self._meter:
                async with contextlib.aclosing(reports):
                    async for report in reports:
                        self._count(report)
                        self._meter.show(self._done, self._issued + self._failed)
        finally:
            self._summarise(time.monotonic() - started)
        if self._failed:
            return False
        run.end()
        return True

    @property
    def _done(self) -> int:
        return self._issued + self._before + self._failed

    def _count(self, report: Done | Failed) -> None:
        if isinstance(report, Failed):
            self._failed += 1
            error = report.refusal.error
            self._line({**failure_fields(report.name, error), "remembered": report.remembered})
            if not self._output_mode.as_json:
                text = failure_line(repr(report.name), error)
                if report.remembered:
                    text += " (Refused in an earlier run; --retry-refused requests it again.)"
                self._meter.say(text)
        elif report.serial is None:
            self._before += 1
            self._line({"type": "complete", "device_id": report.name, "folder": str(report.folder)})
        else:
            self._issued += 1
            self._line(
                {
                    "type": "issued",
                    "device_id": report.name,
                    "serial": report.serial.hex(),
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
        if self._output_mode.as_json or self._output_mode.quiet or not self._done:
            return
        text = f"{self._issued} issued in {seconds:.1f} s ({self._issued / max(seconds, 1e-9):.0f} a second)"
        if self._before:
            text += f", {self._before} already complete"
        typer.echo(f"{text}, {self._failed} failed; folders in {self._folder}")

    def _line(self, fields: dict[str, str | int | float]) -> None:
        if self._output_mode.as_json:
            print_json_line(fields)
