"""Cells of CSV files that people open in a spreadsheet, which runs texts that look like formulas.

A cell that would be one is written behind an apostrophe, as the OWASP page on CSV injection says. The files
that otahsm reads may be such files, so that apostrophe is dropped; whatever the text is, it comes back.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Final

_RUNS: Final = re.compile(r"'*[=+\-@\t\r\n]")


def csv_line(values: Iterable[str]) -> str:
    """Return a line of CSV (RFC 4180) of which no spreadsheet runs a cell."""
    line = io.StringIO()
    csv.writer(line).writerow(f"'{value}" if _RUNS.match(value) else value for value in values)
    return line.getvalue()


def read_cell(text: str) -> str:
    """Return the value of a cell that `csv_line` wrote, or somebody else."""
    return text[1:] if text.startswith("'") and _RUNS.match(text) else text
