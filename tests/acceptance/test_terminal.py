"""What people expect at a terminal: colours that can be turned off, lines in a pipe, JSON, completion."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import shlex
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from otahsm.cli.output import progress
from otahsm.cli.output.progress import Meter, OutputMode

from support.harness import OTAHSM, READY_SECONDS, Fleet
from support.programs import otahsm


def on_a_terminal(
    folder: Path, *words: str, environment: dict[str, str] | None = None, typed: bytes | None = None
) -> str:
    """Run a command whose output is a terminal; return what the terminal gets.

    Its standard input is the terminal, too, if something is typed.
    """
    terminal, side = pty.openpty()
    os.write(terminal, typed or b"")
    process = subprocess.Popen(
        [*OTAHSM, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL if typed is None else side,
        stdout=side,
        stderr=side,
        env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
    )
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    process.wait(READY_SECONDS)
    return shown.decode()


def test_colours_are_for_terminals_and_not_for_those_who_want_none(line: Fleet) -> None:
    show = ("show", "ca/fleet-root.pem")
    assert "\x1b[" in on_a_terminal(line.folder, *show)
    assert "\x1b[" not in on_a_terminal(line.folder, *show, environment={"NO_COLOR": "1"})
    assert "\x1b[" not in line.run(*show).stdout


def test_a_terminal_gets_a_bar_and_quiet_means_quiet(line: Fleet, tmp_path: Path) -> None:
    issue = ("device", "issue", "--count", "3", "--out", str(tmp_path))
    assert "certificates" in on_a_terminal(line.folder, *issue)
    assert on_a_terminal(line.folder, *issue, "--quiet") == ""


def test_a_batch_is_ordered_and_closed_by_typing_its_number(line: Fleet) -> None:
    name = f"typed-{uuid.uuid4()}"
    create = ("batch", "create", name, "--template", "cam-{seq:03d}", "--count", "50")
    assert "'5' was typed, but the number is 50" in on_a_terminal(line.folder, *create, typed=b"5\n")
    assert line.run("batch", "status", name).returncode == 1
    ordered = on_a_terminal(line.folder, *create, typed=b"50\n")
    assert "  cam-001\r\n  cam-002\r\n  cam-003\r\n  ...\r\n  cam-050\r\n" in ordered
    assert "0 of 50" in ordered
    closing = on_a_terminal(line.folder, "batch", "close", name, typed=b"\n")
    assert f"close the batch {name} for good: 50 of its 50 devices will get no certificate" in closing
    assert "no number was typed" in closing
    assert json.loads(line.run("batch", "status", name, "--json").stdout)["state"] == "open"
    on_a_terminal(line.folder, "batch", "close", name, typed=b"50\n")
    assert json.loads(line.run("batch", "status", name, "--json").stdout)["state"] == "closed"


def test_a_terminal_that_can_not_draw_gets_no_bar(line: Fleet, tmp_path: Path) -> None:
    issue = ("device", "issue", "--count", "3", "--out", str(tmp_path))
    assert "certificates" not in on_a_terminal(line.folder, *issue, environment={"TERM": "dumb"})


def with_closed(closed: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = f"exec {shlex.join([*OTAHSM, *words])} {closed}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=READY_SECONDS,
    )


@pytest.mark.parametrize("option", [None, "--quiet", "--json"])
def test_who_has_closed_standard_error_gets_certificates_all_the_same(
    line: Fleet, tmp_path: Path, option: str | None
) -> None:
    words = ("device", "issue", "--count", "3", "--out", str(tmp_path), *([option] if option else []))
    assert with_closed("2>&-", line.folder, *words).returncode == 0
    assert len(list(tmp_path.glob("*/client.pem"))) == 3


def test_what_nobody_can_read_or_answer_fails_in_a_line(line: Fleet, tmp_path: Path) -> None:
    shown = with_closed(">&-", line.folder, "ca", "export")
    assert (shown.returncode, shown.stderr.splitlines()[0]) == (
        2,
        "otahsm: can't write to standard output: Bad file descriptor",
    )
    asked = with_closed("<&-", line.folder, "batch", "create", "b", "--count", "3")
    assert asked.returncode == 2
    assert "there is no terminal to ask on; the number is 3" in asked.stderr
    wrong = with_closed("2>&-", tmp_path, "health")
    assert wrong.returncode == 2  # and not with a failure to say so


def test_no_file_takes_the_place_of_a_standard_stream_that_is_closed() -> None:
    code = (
        "import os, otahsm.__main__ as command; command._hold_standard_streams();"
        " print(*(os.readlink(f'/proc/self/fd/{number}') for number in (0, 2)), os.open('/etc/hosts', 0) > 2)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {shlex.join([sys.executable, '-c', code])} <&- 2>&-"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "/dev/null /dev/null True\n"


def test_a_failure_is_a_line_of_its_own_above_the_bar(line: Fleet, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("good-1\nbad/id\n")
    shown = on_a_terminal(line.folder, "device", "issue", "--ids", str(ids), "--out", str(tmp_path))
    assert "\r\x1b[2Kfailed: 'bad/id': " in shown  # after the bar, which is wiped


def test_a_pipe_gets_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)

    def lines(output_mode: OutputMode) -> list[str]:
        written = io.StringIO()
        with contextlib.redirect_stderr(written), Meter("certificates", 100, output_mode) as meter:
            meter.show(10, 0)
            meter.show(50, 40)
        return written.getvalue().splitlines()

    first, second = lines(OutputMode())
    assert first == "10 of 100 certificates, 0 a second"
    assert second.startswith("50 of 100 certificates, ")
    assert second.endswith(" s left")
    assert lines(OutputMode(as_json=True)) == lines(OutputMode(quiet=True)) == []


@pytest.mark.parametrize(
    ("shell", "typed"),
    [
        ("bash", {"COMP_WORDS": "otahsm ba", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "otahsm ba"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "otahsm ba", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_a_shell_can_complete_commands(tmp_path: Path, shell: str, typed: dict[str, str]) -> None:
    completed = otahsm(folder=tmp_path, environment={"_OTAHSM_COMPLETE": f"complete_{shell}", **typed})
    assert "batch" in completed.stdout
    assert "revoke" not in completed.stdout


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("health",), "serving"),
        (("batch", "list"), None),
        (("ca", "show"), "certificates"),
        (("show", "ca/fleet-root.pem"), None),
        (("crl", "show", "nowhere.crl"), None),
        (("gateway", "show", "--credentials", "nowhere.zip"), None),
    ],
)
def test_json_is_json_whatever_happens(line: Fleet, words: tuple[str, ...], field: str | None) -> None:
    done = line.run(*words, "--json")
    for text in done.stdout.splitlines() if field is None and words[0] == "batch" else [done.stdout]:
        assert not text or json.loads(text) is not None
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.stderr.startswith("otahsm: ")
