"""Prints fields with their labels, a line each, and JSON; the same to a terminal and to a pipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime

import typer

from otahsm.cli.output.times import show_time
from otahsm.pki.descriptions import Description
from otahsm.system.clock import rfc3339


def print_descriptions(descriptions: Iterable[Description], *, as_json: bool) -> None:
    """Print what certificates and CSRs hold."""
    if as_json:
        print_json([{"kind": item.title, **item.fields} for item in descriptions])
        return
    for item in descriptions:
        print_fields(item.title, item.fields)


def print_fields(title: str, fields: Mapping[str, str | datetime], *, err: bool = False) -> None:
    """Print a title, and labels and values in two columns; `err`: to standard error."""
    width = max(map(len, fields), default=0)
    typer.secho(title, bold=True, err=err)
    for label, value in fields.items():
        text = show_time(value) if isinstance(value, datetime) else value
        typer.echo(f"{printable(label):<{width}}  {printable(text)}", err=err)
    typer.echo(err=err)


def print_json(value: object) -> None:
    """Print the one value that a command answers with as JSON; times in RFC 3339."""
    typer.echo(json.dumps(value, indent=2, default=rfc3339))


def print_json_line(fields: Mapping[str, object]) -> None:
    """Print one of many objects as a line of JSON, at once; times in RFC 3339."""
    typer.echo(json.dumps(fields, default=rfc3339))


def print_outcome(text: str, *, as_json: bool, **fields: object) -> None:
    """Print a command's result as text, or as a JSON object."""
    if as_json:
        print_json_line(fields)
    else:
        typer.echo(printable(text))


def printable(text: str) -> str:
    """Escape what could move a terminal's cursor: a certificate may hold any character."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
