"""Prints fields with their labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from otahsm.pki import Description


def print_descriptions(descriptions: Iterable[Description], *, as_json: bool) -> None:
    """Print what certificates and CSRs hold."""
    if as_json:
        print_json([{"kind": item.title, **item.fields} for item in descriptions])
        return
    for item in descriptions:
        print_fields(item.title, item.fields)


def print_fields(title: str, fields: Mapping[str, str]) -> None:
    """Print a title and a table of labels and values; values are shown as they are, never as markup."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in fields.items():
        table.add_row(Text(label), Text(value))
    console = Console(highlight=False, emoji=False)
    console.print(Text(title, style="bold underline"))
    console.print(table)
    console.print()


def print_json(value: object) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2))
