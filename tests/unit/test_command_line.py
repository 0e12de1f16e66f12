"""Whatever a user types, and wherever the output goes: one clear line, and never a traceback."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import otahsm.__main__

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
