"""Whatever a user types, and wherever the output goes: one clear line, and never a traceback."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn, get_args, get_type_hints

import pytest
import typer

import otahsm.__main__
from otahsm.cli import main
from otahsm.cli.commands import COMMANDS
from otahsm.cli.inputs import moment_of
from otahsm.cli.lazy import every_command
from otahsm.errors import NotFoundError
from otahsm.issuance.batches import MAX_DEVICES

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
UNBOUNDED = {"last", "limit", "bits"}  # pages are counted by Python, and three numbers of bits are allowed


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


def test_an_error_of_somebody_elses_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> NoReturn:
        raise NotFoundError("no \x1b[2Jbatch", hint="Try\r\u202e again.")

    monkeypatch.setattr(sys.modules["otahsm.cli.main"], "app", refuse)
    with Path("/dev/null").open("w") as nothing:
        monkeypatch.setattr(sys, "stdout", nothing)
        with pytest.raises(SystemExit):
            main()
    assert capsys.readouterr().err == "otahsm: no \\x1b[2Jbatch\n        Try\\r\\u202e again.\n"


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


def test_what_is_printed_when_ctrl_c_comes_is_not_printed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(frame: FrameType, event: str, _: object) -> None:
        ours = frame.f_code.co_filename == main.__code__.co_filename
        if event == "return" and ours and frame.f_code.co_name in {"write", "flush"}:
            sys.setprofile(None)
            raise KeyboardInterrupt

    with (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setitem(main.__globals__, "app", lambda **_: print("a line", flush=True))  # noqa: T201
        sys.setprofile(interrupt)
        with pytest.raises(KeyboardInterrupt):
            main()
        sys.setprofile(None)
        sys.stdout.flush()
    assert (tmp_path / "out").read_text() == "a line\n"


def test_a_folder_that_can_not_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # and put back
    (tmp_path / "file").touch()
    (tmp_path / "otahsm.toml").write_text('[ledger]\npath = "file/below/ledger"\n')
    for words, path in (
        (["ledger", "restore", "--from", "x", "--config", f"{tmp_path}/otahsm.toml"], "file/below"),
        (["quickstart", f"{tmp_path}/file"], "file"),
    ):
        monkeypatch.setattr(sys, "argv", ["otahsm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        message, hint = capfd.readouterr().err.splitlines()
        assert message == f"otahsm: can't use {tmp_path}/{path}: Not a directory"
        assert hint.startswith("        Check the path")


def test_every_whole_number_that_a_command_takes_has_a_limit() -> None:
    limits = {}
    for words, command in every_command(COMMANDS):
        for name, hint in get_type_hints(command.load(), include_extras=True).items():
            kind, *details = get_args(hint) or (hint,)
            if (kind is int or int in get_args(kind)) and name not in UNBOUNDED:
                limits[f"{words} {name}"] = details[0].max if details else None
    assert limits["device issue count"] == limits["batch create count"] == MAX_DEVICES
    assert all(limit and limit + MAX_DEVICES < 2**63 for limit in limits.values()), limits


@pytest.mark.parametrize(
    "text", ["yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "10000-01-01"]
)
def test_a_time_that_utc_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--after takes 2026-11-23 or 2026-11-23T07:01:12Z"):
        moment_of(text, "--after")
