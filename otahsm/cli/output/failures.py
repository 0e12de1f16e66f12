"""Prints failures of single requests, and warnings."""

from __future__ import annotations

from typing import Protocol

import typer

from otahsm.cli.output.fields import print_json_line, printable


class Failure(Protocol):
    """What a refusal and an error have in common."""

    @property
    def reason(self) -> str:
        """The reason, for programs."""

    @property
    def message(self) -> str:
        """What is wrong."""

    @property
    def hint(self) -> str:
        """What to do."""


def failure_line(name: str, failure: Failure) -> str:
    """Return what a person reads about a request that failed."""
    return printable(f"failed: {name}: {failure.message} [{failure.reason}]. {failure.hint}")


def failure_fields(name: str, code: str, failure: Failure) -> dict[str, str]:
    """Return the same for machines; `code` is the name of the gRPC status."""
    return {
        "type": "failed",
        "name": name,
        "code": code,
        "reason": failure.reason,
        "message": failure.message,
        "hint": failure.hint,
    }


def print_failure(name: str, code: str, failure: Failure, *, as_json: bool) -> None:
    """Print that a request failed: to standard error, or for machines as a line of JSON."""
    if as_json:
        print_json_line(failure_fields(name, code, failure))
    else:
        typer.echo(failure_line(repr(name), failure), err=True)


def warn(text: str) -> None:
    """Print a warning that nobody should miss to standard error."""
    typer.secho(f"WARNING: {text}", fg=typer.colors.RED, err=True)
