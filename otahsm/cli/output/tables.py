"""Tables: a bold heading, then a line for each row, as it comes. The same to a terminal and to a pipe."""

from __future__ import annotations

from typing import NamedTuple

import typer

from otahsm.cli.output.fields import printable


class Column(NamedTuple):
    """A column.

    Attributes:
        title: in the heading.
        width: of its values, in characters; a longer one moves the rest of its line.
        right: whether values stand at the right: numbers do.
    """

    title: str
    width: int = 0
    right: bool = False


class Table:
    """A table whose rows need not be known before its first is printed."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns

    @property
    def heading(self) -> str:
        """The titles, in one line."""
        return self.line(*(column.title for column in self._columns))

    def line(self, *values: str) -> str:
        """Return one row. What could move a terminal's cursor is escaped."""
        cells = zip(map(printable, values), self._columns, strict=True)
        return "  ".join(
            text.rjust(column.width) if column.right else text.ljust(column.width) for text, column in cells
        ).rstrip()

    def print_heading(self) -> None:
        """Print the titles."""
        typer.secho(self.heading, bold=True)

    def print(self, *values: str) -> None:
        """Print one row."""
        typer.echo(self.line(*values))
