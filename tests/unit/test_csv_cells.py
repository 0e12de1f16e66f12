"""Cells of CSV: none is a formula, and every text comes back."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otahsm.cli.commands.ledger.text import FORMS
from otahsm.cli.commands.targets import read_targets
from otahsm.client import LedgerEntry
from otahsm.line.batch_report import report_row
from otahsm.line.device_rows import read_rows
from otahsm.pki.serial import SerialNumber
from otahsm.system.csv_cells import csv_line, read_cell

WHEN = datetime(2030, 1, 1, tzinfo=UTC)
FORMULAS = ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x"]


def entry(text: str) -> LedgerEntry:
    ids = ("issued", text, text, text, b"", text, b"", b"")
    return LedgerEntry(SerialNumber(7), *ids, WHEN, WHEN, WHEN, WHEN, None, text, b"")


def cells(line: str) -> list[str]:
    (row,) = csv.reader(io.StringIO(line, newline=""), strict=True)
    return row


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_an_export_or_a_report_is_a_formula(text: str) -> None:
    for line in (FORMS["csv"].write(entry(text)), csv_line(report_row(entry(text)))):
        for cell in cells(line):
            assert cell[:1] not in set("=+-@\t\r\n")


@pytest.mark.parametrize("text", ["x;=1;", 'x;"=1', "x; +1", "x|@1", "x\t-1", "x\n=1", ";;=1", "＝1"])  # noqa: RUF001
@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_no_cell_is_a_formula_whatever_a_spreadsheet_separates_cells_at(text: str, separator: str) -> None:
    lines = csv_line(["sensor", text, "x"]).splitlines()
    found = [cell for line in lines for row in csv.reader([line], delimiter=separator) for cell in row]
    assert not [cell for cell in found if cell.strip("\"' ")[:1] in set("=+-@＝") and cell[:1] != "'"]  # noqa: RUF001


@given(st.text("=;'\" \t\nax＝|", max_size=8))  # noqa: RUF001
def test_whatever_is_written_is_read_again(text: str) -> None:
    assert read_cell(cells(csv_line(["x", text]))[1]) == text


@pytest.mark.parametrize("text", [*FORMULAS, "", "'", "sensor-1", "'quoted'", "it's = 1"])
def test_every_text_comes_back(text: str) -> None:
    assert read_cell(cells(csv_line(["x", text]))[1]) == text


@pytest.mark.parametrize("device_id", ["=cmd", "-17", "@home", "'=x", "sensor-1"])
def test_what_was_exported_is_read_back(tmp_path: Path, device_id: str) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(csv_line(["device_id", "note"]) + csv_line([device_id, "=1"]), encoding="utf-8")
    (row,) = read_rows(path, "device_id")
    assert row.values == {"device_id": device_id, "note": "=1"}
    (target,) = read_targets(path, "").targets
    assert target.device_id == device_id
