"""`otahsm ledger verify`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

import typer

from otahsm.cli.commands.ledger.evidence import KeysOption, known_checkpoints, trusted_keys
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_json
from otahsm.config import load_config, section
from otahsm.errors import ExitCode
from otahsm.ledger import Verdict, snapshot
from otahsm.ledger import verify as verify_ledger

_EVERY: Final = 1.0  # second


def verify(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint that was kept elsewhere, preferably the newest. Repeatable."),
    ] = None,
    key: KeysOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Verify that nobody changed the ledger: recompute its tree, and name rows changed, removed or added.

    Reads the database that [ledger] names, even beside a running daemon. Exits with 1 if anything does not
    match. Without a checkpoint from elsewhere, it can't notice that the newest rows were removed.
    """
    settings = load_config(config)
    keys = trusted_keys(key, settings.checkpoint)
    known = known_checkpoints(checkpoint or [], keys)
    with Counter("leaves") as counter, snapshot(section(settings.ledger, "ledger")) as connection:
        verdict = verify_ledger(connection, keys, known, counter.show)
    print_verdict(verdict, seconds=counter.seconds, signed=bool(keys), as_json=as_json)
    if not verdict.good:
        raise typer.Exit(ExitCode.SOME_FAILED)


def print_verdict(verdict: Verdict, *, seconds: float, signed: bool, as_json: bool) -> None:
    """Print what a verification found."""
    if as_json:
        print_json(
            {
                "good": verdict.good,
                "leaves": verdict.leaves,
                "root": verdict.root.hex() if verdict.root else None,
                "waiting": verdict.waiting,
                "checkpoints": verdict.checkpoints,
                "signatures_verified": signed,
                "signed_size": verdict.signed_size,
                "seconds": round(seconds, 3),
                "findings": verdict.count,
                "first": [finding._asdict() for finding in verdict.findings],
            }
        )
        return
    for where, what in verdict.findings:
        typer.secho(f"{where}: {what}", fg=typer.colors.RED)
    if verdict.count > len(verdict.findings):
        typer.echo(f"and {verdict.count - len(verdict.findings)} more")
    covered = "no checkpoint covers them"
    if verdict.signed_size is not None:
        vouched = "signed" if signed else "in a checkpoint whose signature was not verified"
        covered = f"the first {verdict.signed_size} are {vouched}"
    rate = verdict.leaves / max(seconds, 1e-9)
    typer.echo(
        f"{verdict.leaves} leaves and {verdict.checkpoints} checkpoints in {seconds:.1f} s ({rate:.0f} leaves"
        f" a second); {covered}; {verdict.waiting} entries are not leaves yet"
    )
    typer.echo("Everything matches." if verdict.good else f"{verdict.count} MISMATCHES.")


class Counter:
    """Shows progress on a terminal; use it as a context manager.

    Attributes:
        seconds: how long it took.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._began
        if self._terminal:
            sys.stderr.write("\r\033[K")

    def show(self, count: int) -> None:
        """Show a count, but not more than once a second."""
        now = time.monotonic()
        if self._terminal and now - self._shown >= _EVERY:
            self._shown = now
            sys.stderr.write(f"\r{count} {self._what} ({count / (now - self._began):.0f} a second)")
            sys.stderr.flush()
