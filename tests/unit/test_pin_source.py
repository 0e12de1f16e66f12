"""Where a PIN comes from: every kind of pin-source, and what each refuses without ever showing a PIN."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from otahsm.errors import ConfigError
from otahsm.pkcs11_names import PinSource
from otahsm.token.pin import TYPED, read_pin


def pin_file(folder: Path, content: bytes, mode: int = 0o600) -> PinSource:
    path = folder / "pin"
    path.write_bytes(content)
    path.chmod(mode)
    return PinSource("file", str(path))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("file:/etc/pin", PinSource("file", "/etc/pin")),
        ("file:///etc/pin", PinSource("file", "/etc/pin")),
        ("file:secrets/pin", PinSource("file", "secrets/pin")),
        ("|/bin/echo 'a b'", PinSource("command", "/bin/echo 'a b'")),
        ("env:OTAHSM_PIN", PinSource("env", "OTAHSM_PIN")),
        ("systemd-credential:pin", PinSource("systemd-credential", "pin")),
        ("prompt:", PinSource("prompt", "")),
    ],
)
def test_every_kind_of_source_is_read(text: str, source: PinSource) -> None:
    assert PinSource.parse(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234",
        "file:",
        "|",
        "|echo 1234",
        "|'unclosed",
        "env:",
        "systemd-credential:../pin",
        "prompt:x",
        "http://x",
    ],
)
def test_what_is_no_source_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="pin-source must be") as caught:
        PinSource.parse(text)
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "pin"), [(b"1234", "1234"), (b"1234\n", "1234"), (b"1234\r\n", "1234"), (b" 1\n\n", " 1\n")]
)
def test_one_line_end_after_the_pin_is_dropped(tmp_path: Path, content: bytes, pin: str) -> None:
    assert read_pin(pin_file(tmp_path, content)) == pin


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe12", b"12" * 600])
def test_what_is_no_pin_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pin(pin_file(tmp_path, content))
    assert "12" not in caught.value.message.replace(str(tmp_path), "")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_pin_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="other users can read"):
        read_pin(pin_file(tmp_path, b"1234", mode))


def test_a_pin_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError):
            read_pin(PinSource("file", str(path)))


def test_a_systemd_credential_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "token-pin").write_text("1234\n")
    assert read_pin(PinSource("systemd-credential", "token-pin")) == "1234"
    with pytest.raises(ConfigError, match="another"):
        read_pin(PinSource("systemd-credential", "another"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match="systemd passed none to this process"):
        read_pin(PinSource("systemd-credential", "token-pin"))


def test_a_command_says_the_pin(tmp_path: Path) -> None:
    assert read_pin(PinSource("command", "/bin/sh -c 'echo 12\"3 4\"'")) == "123 4"
    assert read_pin(PinSource("command", "/bin/echo $HOME")) == "$HOME"  # there is no shell
    for command, why in (
        ("/bin/sh -c 'echo 1234; exit 3'", "exited with status 3"),
        ("/bin/true", "empty"),
        (str(tmp_path / "missing"), "can't run"),
    ):
        with pytest.raises(ConfigError, match=why) as caught:
            read_pin(PinSource("command", command))
        assert "1234" not in caught.value.message


def test_an_environment_variable_says_the_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTAHSM_TEST_PIN", "1234")
    assert read_pin(PinSource("env", "OTAHSM_TEST_PIN")) == "1234"
    monkeypatch.delenv("OTAHSM_TEST_PIN")
    with pytest.raises(ConfigError, match="empty"):
        read_pin(PinSource("env", "OTAHSM_TEST_PIN"))


def test_a_pin_that_was_typed_is_in_a_memory_file_and_can_be_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = os.memfd_create("pin")
    os.write(file, b"1234")
    monkeypatch.setenv(TYPED, str(file))
    for _ in range(2):
        assert read_pin(PinSource("prompt", "")) == "1234"
    os.close(file)


def test_without_a_terminal_nobody_is_asked() -> None:
    code = (
        "from otahsm.pkcs11_names import PinSource; from otahsm.token.pin import read_pin;"
        "read_pin(PinSource('prompt', ''))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "there is no terminal" in ran.stderr


def _type(pin: bytes) -> bytes:
    """Have a program ask for the PIN on a terminal; return what it showed, and whether it is kept."""
    code = (
        "import os; from pathlib import Path; from otahsm.token.pin.keeper import ask_for_pin, pin_keeper;"
        "ask_for_pin(Path('otahsm.toml')); os.write(2, b'kept' if pin_keeper() else b'lost')"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])  # noqa: S606
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone with the program
        while octets := os.read(terminal, 1024):
            shown += octets
            if shown.endswith(b"PIN: "):
                os.write(terminal, pin + b"\n")
    os.close(terminal)
    os.waitpid(pid, 0)
    return shown


def test_a_pin_that_is_typed_is_not_echoed() -> None:
    shown = _type(b"1234")
    assert shown.endswith(b"kept")
    assert b"1234" not in shown


def test_no_pin_typed_is_told() -> None:
    assert b"no PIN was entered" in _type(b"")
