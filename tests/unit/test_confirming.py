"""What can't be undone wants its number typed, on a terminal, or expected; nothing else confirms it."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest

from otahsm.cli.confirming import amount, confirm_number
from otahsm.errors import ExitCode, NotConfirmedError

END = b"\x04"


def asked(
    typed: bytes, number: int = 3, sample: Sequence[str] = ("a", "b", "c"), *, missing: str = ""
) -> str:
    """Have a number confirmed on a terminal on which something was typed; return what was shown.

    A stream that is missing is no terminal.
    """
    ours, its = pty.openpty()
    attributes = termios.tcgetattr(its)
    attributes[3] &= ~termios.ECHO  # the echo would come before what is shown, in between or after it
    termios.tcsetattr(its, termios.TCSANOW, attributes)
    os.write(ours, typed)
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, ours)
        opened.callback(os.close, its)
        patch = opened.enter_context(pytest.MonkeyPatch.context())
        for name, mode in (("stdin", "r"), ("stderr", "w")):
            stream = opened.enter_context(Path(os.devnull if name == missing else os.ttyname(its)).open(mode))
            patch.setattr(sys, name, stream)
        confirm_number(f"revoke {amount(number, 'certificate')}", number, sample, None)
        shown = b""
        while not shown.endswith(b" to go on: "):
            shown += os.read(ours, 65536)
        return shown.decode()


@pytest.mark.parametrize("typed", [b"3\n", b" 3 \n"])
def test_the_number_that_is_typed_confirms(typed: bytes) -> None:
    shown = asked(typed)
    assert shown == "This will revoke 3 certificates.\r\n  a\r\n  b\r\n  c\r\nType the number 3 to go on: "


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (b"2\n", "'2' was typed, but the number is 3"),
        (b"33\n", "'33' was typed, but the number is 3"),
        (b"yes\n", "'yes' was typed"),
        (b"y\n", "'y' was typed"),
        (b"03\n", "'03' was typed"),
        (b"+3\n", "'\\+3' was typed"),
        (b"3.\n", "'3.' was typed"),
        (b"3 3\n", "'3 3' was typed"),
        ("\u0663\n".encode(), "was typed"),  # the same number in other digits
        (b"\xff3\n", "was typed"),
        (b"\n", "no number was typed; it is 3"),
        (b"   \n", "no number was typed"),
        (END, "no number was typed"),
        (b"2" + END + END, "'2' was typed"),
    ],
)
def test_nothing_else_that_is_typed_does(typed: bytes, said: str) -> None:
    with pytest.raises(NotConfirmedError, match=said) as refused:
        asked(typed)
    assert refused.value.exit_code == ExitCode.USAGE
    assert "Nothing was done." in refused.value.hint


def test_a_number_with_a_blank_in_it_is_not_taken_for_the_whole() -> None:
    with pytest.raises(NotConfirmedError, match="'50 000' was typed, but the number is 50000"):
        asked(b"50 000\n", 50_000)


def test_the_first_and_the_last_are_shown_and_nothing_that_moves_the_cursor() -> None:
    shown = asked(b"9\n", 9, [*(f"device-{number}" for number in range(8)), "\x1b[2Jlast"])
    assert shown.splitlines()[1:-1] == ["  device-0", "  device-1", "  device-2", "  ...", "  \\x1b[2Jlast"]


def test_an_expected_number_asks_nothing_and_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    confirm_number("revoke 3 certificates", 3, ["a", "b", "c", "d"], 3)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "This will revoke 3 certificates.\n  a\n  b\n  c\n  d\n")
    with pytest.raises(NotConfirmedError, match="--expect says 4, but the number is 3"):
        confirm_number("revoke 3 certificates", 3, [], 4)
    with pytest.raises(NotConfirmedError, match="--expect says 0, but the number is 3"):
        confirm_number("revoke 3 certificates", 3, [], 0)


@pytest.mark.parametrize("missing", ["stdin", "stderr"])
def test_without_a_terminal_it_is_refused_at_once(missing: str) -> None:
    with pytest.raises(NotConfirmedError, match="there is no terminal") as refused:
        asked(b"3\n", missing=missing)
    assert "add --expect 3" in refused.value.hint


def test_ctrl_c_ends_the_question_of_a_command_that_is_connected() -> None:
    code = (
        "import asyncio; from otahsm.cli.confirming import confirm_number\n"
        "async def run(): confirm_number('revoke 3 certificates', 3, [], None)\n"
        "asyncio.run(run())"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])  # noqa: S606
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone with the program
        while octets := os.read(terminal, 1024):
            shown += octets
            if shown.endswith(b"to go on: "):
                os.write(terminal, b"\x03")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT, shown
