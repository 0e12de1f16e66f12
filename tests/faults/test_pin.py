"""I7: a wrong PIN costs the token one try, whatever is restarted, and however often."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.devices import issue_all, new_requests
from support.harness import OTAHSM, READY_SECONDS, command_line, eventually, is_running, running
from support.tokens.faulty import FaultyToken
from support.tokens.odd_keys import certify, odd_key


def has_memory_file(pid: int) -> bool:
    """Return whether a process has a descriptor of a memory file; True if only root can tell."""
    if os.geteuid() != 0:
        return "pin.keeper" in command_line(pid)
    return any("memfd:" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())


def put_wrong_pin(faulty: FaultyToken) -> str:
    pin = faulty.fleet.folder / "secrets/pin"
    right = pin.read_text()
    pin.write_text("00000000\n" if right.strip() != "00000000" else "11111111\n")
    return right


def test_a_wrong_pin_is_tried_once_with_four_signers_and_five_restarts(faulty: FaultyToken) -> None:
    faulty.fleet.set_signers(4)
    right = put_wrong_pin(faulty)
    logins_before = faulty.calls("login")
    for _ in range(5):
        with running(faulty.fleet) as daemon:
            assert daemon.process.wait(READY_SECONDS) == 4
    shown = faulty.fleet.run("ca", "show")
    assert shown.returncode == 4
    assert "login.json" in shown.stderr
    assert faulty.calls("login") == logins_before + 1

    (faulty.fleet.folder / "secrets/pin").write_text(right)
    with running(faulty.fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 4  # the right PIN alone is not yet an operator's word
    (faulty.fleet.folder / "state/login/login.json").unlink()
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)


def test_a_pin_that_turns_wrong_while_running_is_tried_once_and_the_daemon_stays_up(
    faulty: FaultyToken,
) -> None:
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        put_wrong_pin(faulty)
        before = faulty.calls("login")
        faulty.misbehave("C_Sign=abort")
        daemon.wait_for("signer.lost", count=2)  # the probe of an idle signer meets the fault
        faulty.misbehave()
        daemon.wait_for("signer.failed", count=2, reason="PIN_REFUSED")
        assert faulty.calls("login") == before + 1
        assert daemon.process.poll() is None
        daemon.wait_for("health.changed", serving=False)
        assert daemon.stop() == 0


@pytest.mark.parametrize("flag", ["final-try", "locked"])
def test_a_token_that_is_nearly_locked_is_not_logged_in_to(faulty: FaultyToken, flag: str) -> None:
    faulty.misbehave(flag)
    with running(faulty.fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 4
        daemon.wait_for("signer.failed", reason="PIN_REFUSED")
    assert faulty.calls("login") == 0


def test_logins_that_never_get_an_answer_are_not_repeated_for_ever(faulty: FaultyToken) -> None:
    faulty.misbehave("C_Login=abort")
    with running(faulty.fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 4
    assert faulty.calls("login") == 2


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_pin_file_that_others_may_read_is_refused(faulty: FaultyToken, mode: int) -> None:
    pin = faulty.fleet.folder / "secrets/pin"
    pin.chmod(mode)
    with running(faulty.fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 2
    assert faulty.calls("login") == 0


def test_no_log_line_and_no_command_line_shows_the_pin(faulty: FaultyToken) -> None:
    pin = (faulty.fleet.folder / "secrets/pin").read_text().strip()
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        for pid in (daemon.process.pid, *daemon.signers(), *daemon.preparers()):
            assert pin.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert pin.encode() not in Path(f"/proc/{daemon.process.pid}/environ").read_bytes()
        assert daemon.stop() == 0
        assert pin not in repr(daemon.events)
        assert pin not in "".join(daemon.other_output)


async def test_a_key_that_wants_the_pin_each_time_costs_one_try_when_it_turns_wrong(
    faulty: FaultyToken,
) -> None:
    odd_key(faulty.fleet, "ALWAYS_AUTHENTICATE=true")
    certify(faulty.fleet)
    faulty.fleet.edit("sessions = 1", "sessions = 4")
    faulty.fleet.edit("wait_for_signer_seconds = 10.0", "wait_for_signer_seconds = 0.5")
    with running(faulty.fleet) as daemon:
        daemon.wait_for("signer.ready", count=2)
        daemon.wait_for("health.changed", serving=True)
        before = faulty.calls("login")
        faulty.misbehave("C_Login=0xA0")  # CKR_PIN_INCORRECT
        async with daemon.client(patience=0) as client:
            issued, refused = await issue_all(client, new_requests(200))
        assert (len(issued), len(refused)) == (0, 200)
        daemon.wait_for("signer.failed", reason="PIN_REFUSED")
        assert faulty.calls("login") == before + 1  # of eight sessions
        faulty.misbehave()
        (faulty.fleet.folder / "state/login/login.json").unlink()
        daemon.wait_for("health.changed", serving=True, count=2)  # an operator acted, and nobody restarted it


def memory_of(pid: int) -> Iterator[bytes]:
    """Read what a process has in its memory, as a core dump would hold it."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last = (int(address, 16) for address in line.split()[0].split("-"))
            with contextlib.suppress(OSError, OverflowError):  # what the kernel keeps for itself
                memory.seek(first)
                yield memory.read(last - first)


def knows(pid: int, secret: str) -> bool:
    return any(secret.encode() in part for part in memory_of(pid))


def test_a_pin_from_a_command_or_a_credential_reaches_the_signers_and_nobody_else(
    faulty: FaultyToken,
) -> None:
    folder = faulty.fleet.folder / "secrets"
    pin = (folder / "pin").read_text().strip()
    (folder / "pin").rename(folder / "token-pin")
    environment = {"CREDENTIALS_DIRECTORY": str(folder)}
    last = "file:secrets/pin"
    for source in (f"%7C/bin/cat%20{folder}/token-pin", "systemd-credential:token-pin"):
        faulty.fleet.edit(f"pin-source={last}", f"pin-source={source}")
        last = source
        with running(faulty.fleet, environment) as daemon:
            daemon.wait_for("signer.ready", count=2)
            daemon.wait_for("health.changed", serving=True)
            assert all(knows(signer, pin) for signer in daemon.signers())
            assert not any(knows(pid, pin) for pid in (daemon.process.pid, *daemon.preparers()))


def test_a_pin_in_the_environment_is_warned_of_and_preparers_have_no_part_of_it(faulty: FaultyToken) -> None:
    pin = (faulty.fleet.folder / "secrets/pin").read_text().strip()
    faulty.fleet.edit("file:secrets/pin", "env:FLEET_PIN")
    with running(faulty.fleet, {"FLEET_PIN": pin}) as daemon:
        daemon.wait_for("pin.in_environment")
        daemon.wait_for("health.changed", serving=True)
        assert all(knows(signer, pin) for signer in daemon.signers())
        assert not any(knows(preparer, pin) for preparer in daemon.preparers())
        assert pin not in repr(daemon.events)


def test_a_pin_that_is_typed_serves_every_signer_and_its_successor(faulty: FaultyToken) -> None:
    pin = (faulty.fleet.folder / "secrets/pin").read_text().strip()
    faulty.fleet.edit("file:secrets/pin", "prompt:")
    with running(faulty.fleet) as daemon:
        assert daemon.process.wait(READY_SECONDS) == 2  # there is no terminal
    log = faulty.fleet.folder / "log"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(faulty.fleet.folder)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        os.execv(OTAHSM[0], [*OTAHSM, "serve"])  # noqa: S606
    try:
        shown = b""
        while not shown.endswith(b"PIN: "):
            shown += os.read(terminal, 100)
        os.write(terminal, pin.encode() + b"\n")
        eventually(lambda: log.read_text().count("signer.ready") == 2, "no signer gets ready")
        faulty.misbehave("C_Sign=abort")
        eventually(lambda: log.read_text().count("signer.lost") == 2, "no signer is lost")
        faulty.misbehave()
        eventually(lambda: log.read_text().count("signer.ready") >= 4, "no signer is replaced")
        assert not knows(pid, pin)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (keeper,) = [int(child) for child in children if "pin.keeper" in command_line(int(child))]
        assert not has_memory_file(pid)
        assert has_memory_file(keeper)
        assert pin not in log.read_text()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_a_login_that_has_begun_is_finished_though_the_daemon_is_killed(faulty: FaultyToken) -> None:
    # SoftHSM2 writes its token anew at every login: one that is cut off leaves a token that nobody can use.
    faulty.misbehave("C_Login=1000ms")
    with running(faulty.fleet) as daemon:
        eventually(lambda: faulty.calls("login") == 1, "no signer logs in")
        children = daemon.children()
        daemon.kill()
    eventually(lambda: faulty.calls("login-done") == 1, "the login was cut off")
    eventually(lambda: not any(map(is_running, children)), "a signer outlives its daemon")
    faulty.misbehave()
    with running(faulty.fleet) as daemon:
        daemon.wait_for("health.changed", serving=True)
