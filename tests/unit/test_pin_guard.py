"""The guard's rules, state by state."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from pathlib import Path

import pytest

from otahsm.errors import ConfigError, PinRefusedError, TokenUnavailableError
from otahsm.token.pin import LoginGuard, read_pin


class PowerCutError(BaseException):
    """Nothing after this line is run."""


def try_login(guard: LoginGuard, outcome: BaseException | None = None) -> None:
    with guard.lock(), guard.one_try():
        if outcome is not None:
            raise outcome


def test_a_login_that_succeeds_leaves_no_note(tmp_path: Path) -> None:
    for _ in range(3):
        try_login(LoginGuard(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["login.lock"]


def test_a_refused_pin_is_not_tried_again_until_the_note_is_removed(tmp_path: Path) -> None:
    with pytest.raises(PinRefusedError, match="PinIncorrect"):
        try_login(LoginGuard(tmp_path), PinRefusedError("PinIncorrect"))
    for _ in range(3):
        with pytest.raises(PinRefusedError, match="not tried again") as caught:
            try_login(LoginGuard(tmp_path), AssertionError("the token was asked again"))
        assert str(tmp_path / "login.json") in caught.value.hint
    (tmp_path / "login.json").unlink()
    try_login(LoginGuard(tmp_path))


def test_a_token_that_is_away_is_no_refusal(tmp_path: Path) -> None:
    for _ in range(5):
        with pytest.raises(TokenUnavailableError):
            try_login(LoginGuard(tmp_path), TokenUnavailableError("away"))
    try_login(LoginGuard(tmp_path))


def test_a_try_without_an_answer_may_be_repeated_once(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PowerCutError):
            try_login(LoginGuard(tmp_path), PowerCutError())
    with pytest.raises(PinRefusedError, match="2 logins got no answer"):
        try_login(LoginGuard(tmp_path), AssertionError("the token was asked again"))


def test_a_success_forgets_the_try_without_an_answer(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(PowerCutError):
            try_login(LoginGuard(tmp_path), PowerCutError())
        try_login(LoginGuard(tmp_path))


@pytest.mark.parametrize(
    "note", ["", "{", "[]", '"refused"', "{}", '{"state": "trying", "tries": "1"}', "\0"]
)
def test_a_note_that_makes_no_sense_counts_as_a_refusal(tmp_path: Path, note: str) -> None:
    (tmp_path / "login.json").write_text(note)
    with pytest.raises(PinRefusedError, match="not tried again"):
        try_login(LoginGuard(tmp_path), AssertionError("the token was asked"))


def test_without_a_place_for_the_note_no_login_is_tried(tmp_path: Path) -> None:
    (tmp_path / "login.new").mkdir()
    with pytest.raises(ConfigError, match="no login is tried"):
        try_login(LoginGuard(tmp_path), AssertionError("the token was asked"))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="can't be used"):
        try_login(LoginGuard(file), AssertionError("the token was asked"))


def _refuse(directory: Path, tried: Path) -> None:
    guard = LoginGuard(directory)
    with contextlib.suppress(PinRefusedError), guard.lock(), guard.one_try():
        with tried.open("a") as file:
            file.write("tried\n")
        raise PinRefusedError("PinIncorrect")


def test_many_processes_at_once_try_a_wrong_pin_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    tried = tmp_path / "tried"
    processes = [context.Process(target=_refuse, args=(tmp_path / "guard", tried)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert tried.read_text() == "tried\n"
    assert json.loads((tmp_path / "guard/login.json").read_text())["state"] == "refused"


def pin_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "pin"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "pin"), [(b"1234", "1234"), (b"1234\n", "1234"), (b"1234\r\n", "1234"), (b" 1\n\n", " 1\n")]
)
def test_one_line_end_after_the_pin_is_dropped(tmp_path: Path, content: bytes, pin: str) -> None:
    assert read_pin(pin_file(tmp_path, content)) == pin


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe12"])
def test_a_pin_file_without_a_pin_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pin(pin_file(tmp_path, content))
    assert "12" not in caught.value.message.replace(str(tmp_path), "")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_pin_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="only its owner"):
        read_pin(pin_file(tmp_path, b"1234", mode))


def test_a_pin_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError):
            read_pin(path)
