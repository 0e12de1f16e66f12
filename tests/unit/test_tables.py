"""What is printed, is printed as it is: one line, no colours in a pipe, no orders to the terminal."""

from __future__ import annotations

import pytest

from otahsm.cli.output.fields import print_fields


def test_fields_stand_in_two_columns_and_are_never_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields("Title", {"a": "1", "longer label": "x" * 300})
    assert capsys.readouterr().out == f"Title\na             1\nlonger label  {'x' * 300}\n\n"


def test_a_value_gives_no_orders_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields("Title", {"subject": "CN=\x1b[2J\r\nfake\x9b1m\u202eevil, [bold]:cd:"})
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("subject"))
    assert line == r"subject  CN=\x1b[2J\r\nfake\x9b1m\u202eevil, [bold]:cd:"
