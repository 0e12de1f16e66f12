"""The house stays one to grow in: rooms that can be seen at once, modules that can be read at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MAX_SIBLINGS = 20
MAX_LINES = 400  # 300 is the aim
MAX_CLIENT_NAMES = 30


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "scripts/structure.py", "--json"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_no_room_has_more_modules_than_can_be_seen_at_once(figures: dict[str, Any]) -> None:
    limits = {"otahsm/ledger": 34}  # being divided; no other room may have more
    siblings = {package: count for package, count in figures["siblings"].items() if package != "otahsm"}
    assert len(siblings) > 20
    assert {
        package: count for package, count in siblings.items() if count > limits.get(package, MAX_SIBLINGS)
    } == {}


def test_no_module_is_longer_than_can_be_read_at_once(figures: dict[str, Any]) -> None:
    assert {path: lines for path, lines in figures["long_modules"].items() if lines > MAX_LINES} == {}


def test_the_client_offers_what_can_be_learned_at_once(figures: dict[str, Any]) -> None:
    assert 0 < figures["client_names"] <= MAX_CLIENT_NAMES


def test_commands_import_at_the_top_or_say_why_not(figures: dict[str, Any]) -> None:
    assert figures["late_imports_without_reason"] == 0


def test_who_catches_everything_says_why(figures: dict[str, Any]) -> None:
    assert figures["broad_excepts"]
    assert {place for place, reason in figures["broad_excepts"].items() if not reason} == set()


def test_figures_of_a_revision_are_shown_beside_those_of_the_files_here() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/structure.py", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["HEAD", "here"]
    (lines,) = [row for row in rows if row.startswith("lines of Python: product")]
    before, now = (int(figure.replace(",", "")) for figure in lines.split()[-2:])
    assert before > 10_000 < now


def test_a_revision_that_does_not_exist_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/structure.py", "no-such-revision"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no-such-revision" in done.stderr
    assert "Traceback" not in done.stderr
