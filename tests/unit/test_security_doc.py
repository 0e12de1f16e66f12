"""The table of attacks in docs/security.md: each row is a test that there is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| `(\w+)` in \[(\w+\.py)\]\(\.\./(\S+)\) \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
    return {item.name for item in functions}


def test_every_row_is_read_and_numbered() -> None:
    numbered = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    assert len(ROWS) == len(numbered) >= 60
    assert [int(number) for number, *_ in ROWS] == list(range(1, len(ROWS) + 1))


@pytest.mark.parametrize(("number", "_attack", "_outcome", "name", "file", "path"), ROWS)
def test_the_test_of_a_row_is_there(
    number: str, _attack: str, _outcome: str, name: str, file: str, path: str
) -> None:
    assert path.endswith(f"/{file}"), number
    assert name.startswith("test_")
    assert name in functions_in(ROOT / path), number
