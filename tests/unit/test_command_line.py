"""Whatever a user types, and wherever the output goes: one clear line, and never a traceback."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import otahsm.__main__
from otahsm.cli import main

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


class Interrupted(ModuleType):
    """A module that is being loaded when Ctrl-C comes."""

    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt


def test_ctrl_c_while_the_command_is_loaded_is_an_exit_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "otahsm.cli", Interrupted("otahsm.cli"))
    with pytest.raises(SystemExit) as ended:
        otahsm.__main__.main()
    assert ended.value.code == 130
    scripts = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]
    assert scripts == {"otahsm": "otahsm.__main__:main"}


def test_a_full_disk_below_standard_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["otahsm", "--help"])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()  # as Python does at its end
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "otahsm: can't write to standard output: No space left on device\n"
        "        If it is a file, check the space on its disk; then run the command again.\n"
    )
