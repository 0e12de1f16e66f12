"""The guard's rules, state by state."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from otahsm.errors import ConfigError, PinRefusedError, TokenUnavailableError
from otahsm.system.spool import LOGIN, SpooledEvent, read
from otahsm.token.guard import LoginGuard


class PowerCutError(BaseException):
    """Nothing after this line is run."""


def try_login(guard: LoginGuard, outcome: BaseException | None = None) -> None:
    with guard.lock(), guard.one_try():
        if outcome is not None:
            raise outcome


def test_a_login_that_succeeds_leaves_no_note(tmp_path: Path) -> None:
    for _ in range(3):
        try_login(LoginGuard(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"login.lock", "events"}
    left = [(item.name, item.details["pid"]) for item in read(tmp_path) if isinstance(item, SpooledEvent)]
    assert left == [(LOGIN, str(os.getpid()))] * 3


def test_a_login_goes_on_where_no_event_can_be_left(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("in the way")
    try_login(LoginGuard(tmp_path))


def test_a_refused_pin_is_not_tried_again_until_the_note_is_removed(tmp_path: Path) -> None:
    with pytest.raises(PinRefusedError, match="PinIncorrect"):
        try_login(LoginGuard(tmp_path), PinRefusedError("PinIncorrect"))
    for _ in range(3):
        with pytest.raises(PinRefusedError, match="blocked") as caught:
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
    with pytest.raises(PinRefusedError, match="2 logins got no response"):
        try_login(LoginGuard(tmp_path), AssertionError("the token was asked again"))


def test_a_success_forgets_the_try_without_an_answer(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(PowerCutError):
            try_login(LoginGuard(tmp_path), PowerCutError())
        try_login(LoginGuard(tmp_path))


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        '"refused"',
        "{}",
        '{"state": "trying", "tries": "1"}',
        '{"state": "trying", "at": "now", "tries": true}',
        '{"state": "trying", "at": "now", "tries": 1, "more": 1}',
        '{"state": "accepted", "at": "now"}',
        "[" * 60_000,
        "\0",
        "\ud800",
    ],
)
def test_a_note_that_makes_no_sense_counts_as_a_refusal(tmp_path: Path, note: str) -> None:
    (tmp_path / "login.json").write_bytes(note.encode(errors="surrogatepass"))
    with pytest.raises(PinRefusedError, match="blocked"):
        try_login(LoginGuard(tmp_path), AssertionError("the token was asked"))


def test_without_a_place_for_the_note_no_login_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device; no login is attempted"):
        try_login(LoginGuard(tmp_path), AssertionError("the token was asked"))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="can't use"):
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


def test_a_pin_that_a_key_wants_again_is_not_tried_after_a_refusal(tmp_path: Path) -> None:
    guard = LoginGuard(tmp_path)
    for _ in range(3):
        with guard.another_try():
            pass
    with pytest.raises(PinRefusedError, match="PinIncorrect") as caught, guard.another_try():
        raise PinRefusedError("PinIncorrect")
    assert str(tmp_path / "login.json") in caught.value.hint
    for _ in range(3):
        with pytest.raises(PinRefusedError, match="blocked"), guard.another_try():
            raise AssertionError("the token was asked again")
    with pytest.raises(PinRefusedError, match="blocked"):
        try_login(guard, AssertionError("the token was asked again"))


def test_a_token_that_fails_while_a_key_wants_the_pin_again_is_no_refusal(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(TokenUnavailableError), LoginGuard(tmp_path).another_try():
            raise TokenUnavailableError("away")
    try_login(LoginGuard(tmp_path))
