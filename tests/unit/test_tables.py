"""What is printed, is printed as it is: one line, no colours in a pipe, no orders to the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from otahsm.cli.output.fields import print_fields
from otahsm.cli.output.files import write_output
from otahsm.cli.output.tables import Column, Table
from otahsm.cli.output.times import show_time
from otahsm.errors import FolderError
from otahsm.templates import counted


def test_fields_stand_in_two_columns_and_are_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields("Title", {"a": "1", "longer label": "x" * 300})
    assert capsys.readouterr().out == f"Title\na             1\nlonger label  {'x' * 300}\n\n"


def test_a_value_gives_no_orders_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields("Title", {"subject": "CN=\x1b[2J\r\nfake\x9b1m\u202eevil, [bold]:cd:"})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("subject"))
    assert line == r"subject  CN=\x1b[2J\r\nfake\x9b1m\u202eevil, [bold]:cd:"


def test_a_row_stands_below_its_heading_and_gives_no_orders_to_the_terminal() -> None:
    table = Table(Column("name", 6), Column("count", 7, right=True), Column("note"))
    assert table.heading == "name      count  note"
    assert table.line("a", "12", "") == "a            12"
    assert table.line("\x1b[2J", "1", "longer") == r"\x1b[2J        1  longer"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 30, 20, 5, 12, 999999, tzinfo=UTC), "2026-11-30 20:05:12 UTC"),
        (datetime(2026, 12, 1, 1, 5, 12, tzinfo=timezone(timedelta(hours=5))), "2026-11-30 20:05:12 UTC"),
        (None, ""),
    ],
)
def test_times_are_shown_in_utc(moment: datetime | None, text: str) -> None:
    assert show_time(moment) == text


def test_numbers_agree_with_their_nouns() -> None:
    assert [counted(number, "leaf", "leaves") for number in (0, 1, 2000)] == [
        "0 leaves",
        "1 leaf",
        "2,000 leaves",
    ]
    assert [counted(number, "client") for number in (0, 1, 2)] == ["0 clients", "1 client", "2 clients"]


def test_what_is_written_is_told_and_never_overwritten(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chain.pem"
    write_output(path, b"first")
    assert capfd.readouterr() == ("", f"Written: {path}\n")
    with pytest.raises(FolderError, match="exists; nothing was written"):
        write_output(path, b"second")
    write_output(None, b"third")
    assert (path.read_bytes(), capfd.readouterr().out) == (b"first", "third")
