"""Cells of CSV files that people open in a spreadsheet, which runs texts that look like formulas.

A cell that would be one is written behind an apostrophe, as the OWASP page on CSV injection says. Where the
decimal separator is a comma, a spreadsheet separates cells at semicolons, and so may start one within ours:
what follows a separator is treated in the same way. The files that otahsm reads may be such files, so these
apostrophes are dropped; whatever the text is, it comes back.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Final

# Where a cell may start, before what begins a formula; with the full-width forms that Japanese Excel takes.
_START: Final = r"(^|[;|\t\r\n])"
_FORMULA: Final = r"(?=['\" ]*[=+\-@\t\r\n＝＋－＠])"  # noqa: RUF001 - they are meant
_RUNS: Final = re.compile(_START + _FORMULA)
_DEFUSED: Final = re.compile(f"{_START}'{_FORMULA}")


def csv_line(values: Iterable[str]) -> str:
    """Return a line of CSV (RFC 4180) of which no spreadsheet runs a cell."""
    line = io.StringIO()
    csv.writer(line).writerow(_RUNS.sub(r"\1'", value) for value in values)
    return line.getvalue()


def read_cell(text: str) -> str:
    """Return the value of a cell that `csv_line` wrote, or somebody else."""
    return _DEFUSED.sub(r"\1", text)
