"""A device's token that crashes, is pulled out, is full or refuses the PIN, while it is enrolled."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import Fleet, RunningDaemon
from support.tokens.device_tokens import DeviceToken, faulty_device_token, soft_device_token
from support.tokens.faulty import FaultyToken

Device = tuple[DeviceToken, FaultyToken]
ALL = ["Certificate 01", "Private Key 02", "Public Key 02"]
PAIR = ALL[1:]


@pytest.fixture
def line(shared_daemon: RunningDaemon) -> Fleet:
    shared_daemon.configure_client()
    return shared_daemon.fleet


@pytest.fixture
def device(line: Fleet, tmp_path: Path, shim_module: Path) -> Iterator[Device]:
    with faulty_device_token(line, tmp_path, shim_module) as made:
        yield made


def test_a_run_that_dies_at_any_step_is_finished_by_the_same_command_with_one_key_and_one_certificate(
    device: Device,
) -> None:
    token, strings = device
    device_id = f"dies-{uuid.uuid4().hex[:12]}"

    def die(fault: str, there: list[str]) -> None:
        strings.misbehave(fault)
        assert token.enroll(device_id).returncode == -signal.SIGABRT, fault
        assert token.objects() == there, fault
        assert not (token.out / device_id / "client.pem").exists()

    die("C_GenerateKeyPair=abort", [])
    die("C_GenerateKeyPair=after", PAIR)
    # Half a pair, as a token leaves it that dies itself. Anybody else's is left alone.
    token.tool("--delete-object", "--type", "privkey", "--id", "02")
    strings.misbehave()
    assert "but not its private key; nothing was changed" in token.refused(device_id, "--label", "another")
    assert token.objects() == ["Public Key 02"]
    die("C_Sign=abort", PAIR)
    key = token.read("pubkey", "02")
    die("C_CreateObject=abort", PAIR)  # the certificate is issued, and nobody has it
    die("C_CreateObject=after", ALL)  # the token has it, and the folder does not
    strings.misbehave()
    report = token.enrolled(device_id)
    assert (report["type"], report["replayed"], report["key_made"]) == ("complete", True, False)
    assert token.objects() == ALL
    assert token.read("pubkey", "02") == key
    assert (token.out / device_id / "client.pem").exists()


def test_a_wrong_pin_is_tried_once_until_somebody_has_looked_and_stops_no_other_device(
    device: Device, line: Fleet, tmp_path: Path
) -> None:
    token, strings = device
    device_id = f"pin-{uuid.uuid4().hex[:12]}"
    token.pin_file.write_text("0000\n")
    note = token.refused(device_id)
    assert "PinIncorrect" in note
    token.pin_file.write_text(token.pin)
    assert "login is blocked" in token.refused(device_id)  # the right PIN is not yet somebody's word
    assert strings.calls("login") == 1
    (tmp_path / "next").mkdir()
    assert soft_device_token(line, tmp_path / "next").enrolled(f"{device_id}-next")["type"] == "issued"
    (word,) = (word for word in note.split() if word.endswith("login.json"))
    Path(word).unlink()
    assert token.enrolled(device_id)["type"] == "issued"


def test_a_token_that_one_more_wrong_pin_would_lock_is_not_logged_in_to(device: Device) -> None:
    token, strings = device
    strings.misbehave("final-try")
    assert "one more wrong user PIN will lock it" in token.refused("a-device")
    assert strings.calls("login") == 0


@pytest.mark.parametrize(
    ("fault", "status", "said", "hint"),
    [
        ("C_GenerateKeyPair=0x31", 4, "is full: it failed while making the key", "--delete-object"),
        ("C_GenerateKeyPair=0x70", 4, "can't generate a key of type ec-p256", "ec-p384, rsa-2048"),
        ("flip", 3, "a signature that does not verify", ""),
        ("spoil", 4, "shows 1, but not the one that was written", "--list-objects"),
        ("C_CreateObject=0x32", 3, "was removed: it failed while writing the certificate", "to continue"),
    ],
)
def test_what_the_token_failed_at_is_said_and_the_device_is_not_complete(
    device: Device, fault: str, status: int, said: str, hint: str
) -> None:
    token, strings = device
    strings.misbehave(fault)
    device_id = f"fault-{uuid.uuid4().hex[:12]}"
    error = token.refused(device_id, status=status)
    assert said in error
    assert hint in error
    assert not (token.out / device_id).exists()
