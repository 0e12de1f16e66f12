"""Follows a run of registrations, and shows the state of each."""

from __future__ import annotations

import time

import typer

from otahsm.cli.output.fields import print_json_line, printable
from otahsm.cli.output.progress import Meter, OutputMode
from otahsm.cli.output.times import show_time
from otahsm.registration.backends import Backend
from otahsm.registration.collecting import collect
from otahsm.registration.outbox import Outbox, Registered
from otahsm.registration.registering import register
from otahsm.templates import counted


class RegistrationRun:
    """One run, as its user sees it. It first enters devices that are not in the outbox yet.

    Args:
        outbox: what waits.
        output_mode: how to print.

    Raises:
        FolderError: the book can't be read or written.
    """

    def __init__(self, outbox: Outbox, output_mode: OutputMode) -> None:
        self._outbox, self._output_mode = outbox, output_mode
        self._missing = collect(outbox.book).missing
        self._meter = Meter("registrations", outbox.counts()["waiting"], output_mode)
        self._registered = self._failed = 0
        self._in_trouble = False

    def follow(self, backend: Backend, parallel: int, patience: float, *, watch: bool) -> bool:
        """Register what waits and show the progress, then the summary; return whether all are registered.

        Raises as `register` does.
        """
        started = time.monotonic()
        try:
            with self._meter:
                register(self._outbox, backend, self._show, parallel=parallel, patience=patience, watch=watch)
        finally:
            counts = self._outbox.counts()
            self._summarise(counts["waiting"], counts["failed"], time.monotonic() - started)
        return not counts["waiting"] and not counts["failed"]

    def _show(self, one: Registered) -> None:
        self._registered += one.state == "done"
        self._failed += one.state == "failed"
        settled = self._registered + self._failed
        self._meter.show(settled, settled)
        if self._output_mode.as_json:
            print_json_line(_fields(one))
        elif one.state == "failed":
            self._meter.say(printable(f"failed: {one.device_id!r}: {one.answer}"))
        elif one.state == "waiting" and not self._in_trouble and not self._output_mode.quiet:
            self._meter.say(printable(f"otahsm: will retry: {one.answer}"))
        self._in_trouble = one.state == "waiting"

    def _summarise(self, waiting: int, failed: int, seconds: float) -> None:
        if self._output_mode.as_json:
            print_json_line(
                {
                    "type": "summary",
                    "registered": self._registered,
                    "failed": failed,
                    "waiting": waiting,
                    "missing": self._missing,
                    "seconds": round(seconds, 3),
                    "folder": str(self._outbox.folder),
                }
            )
            return
        if self._missing:
            typer.echo(
                f"otahsm: the certificates of {counted(self._missing, 'device')} are not in"
                f" {self._outbox.folder}; they are not registered from here",
                err=True,
            )
        if not self._output_mode.quiet:
            more = "; --status shows each" if waiting or failed else ""
            typer.echo(
                f"{self._registered} registered in {seconds:.1f} s, {failed} failed, {waiting} waiting{more}"
            )


def show_all(outbox: Outbox, output_mode: OutputMode) -> None:
    """Show the state of each registration; if quiet, not of those that are done.

    Raises:
        FolderError: the book can't be read.
    """
    for one in outbox.all():
        if output_mode.as_json:
            print_json_line(_fields(one))
        elif one.state != "done" or not output_mode.quiet:
            words = [f"{one.state:<7}", one.device_id, one.serial, counted(one.attempts, "attempt")]
            if one.due_at is not None:
                words.append(f"due {show_time(one.due_at)}")
            if one.answer:
                words.append(f"{show_time(one.answered_at)} {one.answer}")
            typer.echo(printable("  ".join(words)))
    if not output_mode.as_json and not output_mode.quiet:
        counts = outbox.counts()
        typer.echo(f"{counts['done']} done, {counts['failed']} failed, {counts['waiting']} waiting")


def _fields(one: Registered) -> dict[str, object]:
    return {
        "type": one.state,
        "device_id": one.device_id,
        "serial": one.serial,
        "attempts": one.attempts,
        "answer": one.answer,
        "answered_at": one.answered_at,
        "due_at": one.due_at,
    }
