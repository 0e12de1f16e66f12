"""Prints failures of single requests, and warnings."""

from __future__ import annotations

import typer

from otahsm.cli.output.fields import print_json_line, printable
from otahsm.errors import OtahsmError


def failure_line(name: str, error: OtahsmError) -> str:
    """Return what a person reads about a request that failed."""
    return printable(f"failed: {name}: {error.message} [{error.reason}]. {error.hint}")


def failure_fields(name: str, error: OtahsmError) -> dict[str, str]:
    """Return the same for machines; `code` is the name of the gRPC status."""
    return {
        "type": "failed",
        "name": name,
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "hint": error.hint,
    }


def print_failure(name: str, error: OtahsmError, *, as_json: bool) -> None:
    """Print that a request failed: to standard error, or for machines as a line of JSON."""
    if as_json:
        print_json_line(failure_fields(name, error))
    else:
        typer.echo(failure_line(repr(name), error), err=True)


def warn(text: str) -> None:
    """Print a warning that nobody should miss to standard error."""
    typer.secho(f"WARNING: {text}", fg=typer.colors.RED, err=True)
