"""Reads files that list devices: text with an id per line, CSV, or JSON Lines.

The other columns of a file are attributes of the devices.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError
from otahsm.system.csv_cells import read_cell
from otahsm.templates import NAME

_CSV: Final = {".csv"}
_JSON_LINES: Final = {".jsonl", ".ndjson"}
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One device of a file.

    Attributes:
        line: its line number, from 1.
        values: its values by column.
    """

    line: int
    values: dict[str, str] = field(default_factory=dict)


def read_rows(path: Path, column: str) -> Iterator[Row]:
    """Yield the rows of a file, ignoring empty lines.

    Args:
        path: CSV with a header if it ends in .csv, JSON Lines if it ends in .jsonl or .ndjson, otherwise text
            with one value per line. UTF-8, with or without a byte order mark, and any line ends.
        column: the required column; in text, the column of the values.

    Raises:
        ConfigError: it can't be read, or a line is invalid: the message says which.
    """
    suffix = path.suffix.lower()
    reader = _from_csv if suffix in _CSV else _from_json_lines if suffix in _JSON_LINES else _from_text
    try:
        for row in reader(path, column):
            if not row.values.get(column):
                raise _wrong(path, row.line, f"there is no {column}")
            yield row
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", hint="Is the path right?") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, octets in enumerate(file, 1):
            line = octets.removeprefix(_BOM) if number == 1 else octets
            try:
                yield number, line.decode()
            except UnicodeDecodeError:
                raise _wrong(path, number, "it is not UTF-8") from None


def _from_text(path: Path, column: str) -> Iterator[Row]:
    for number, line in _lines(path):
        if value := line.strip():
            yield Row(number, {column: value})


def _from_json_lines(path: Path, column: str) -> Iterator[Row]:  # noqa: ARG001 - read_rows looks for it
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            where = f" from column {error.colno} on" if isinstance(error, json.JSONDecodeError) else ""
            raise _wrong(path, number, f"it is not JSON{where}") from None
        if not isinstance(record, dict):
            raise _wrong(path, number, "it is not a JSON object")
        values = {}
        for name, value in record.items():
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise _wrong(path, number, f"{name!r} is neither a string nor a whole number")
            values[_column(path, number, name)] = _text(path, number, str(value))
        yield Row(number, values)


def _from_csv(path: Path, column: str) -> Iterator[Row]:
    rows = csv.reader((line for _, line in _lines(path)), strict=True)
    header: list[str] = []
    try:
        for fields in rows:
            if not any(text.strip() for text in fields):
                continue
            if not header:
                header = [_column(path, rows.line_num, name) for name in fields]
                if column not in header or len(set(header)) < len(header):
                    raise _wrong(
                        path, rows.line_num, f"the first line must name the columns, with {column}, each once"
                    )
                continue
            if len(fields) != len(header):
                raise _wrong(
                    path, rows.line_num, f"it has {len(fields)} fields, but the first line has {len(header)}"
                )
            yield Row(
                rows.line_num, dict(zip(header, (read_cell(text.strip()) for text in fields), strict=True))
            )
    except csv.Error as error:
        raise _wrong(path, rows.line_num, f"it is not CSV: {error}") from None


def _text(path: Path, line: int, value: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):  # JSON can contain lone surrogates
        raise _wrong(path, line, "it contains half a character (a lone surrogate)")
    return value


def _column(path: Path, line: int, name: str) -> str:
    """Return the attribute name of a column: "Serial No" is serial_no."""
    tidy = name.strip().lower().replace(" ", "_").replace("-", "_")
    if not NAME.fullmatch(tidy):
        raise _wrong(path, line, f"invalid column name {name[:64]!r}: use letters, digits, underscores")
    return tidy


def _wrong(path: Path, line: int, what: str) -> ConfigError:
    return ConfigError(f"{path}, line {line}: {what}", hint="Correct the line; nothing was done yet.")
