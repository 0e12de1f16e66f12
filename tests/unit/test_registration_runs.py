"""Runs of `device register` that are killed, and runs at the same time."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from pathlib import Path

from otahsm.registration.outbox import Outbox, TryOutcome

from support.backend import Reply, Seen, backend_running
from support.harness import READY_SECONDS
from support.registering import (
    fill,
    known,
    script,
    start_command,
)


def test_runs_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    devices = [f"d{number}" for number in range(200)]
    fill(folder, *devices)
    with backend_running() as backend:
        for killed_at in (20, 90, 150):
            pass_on, arrived = threading.Event(), threading.Event()

            def hold(
                _seen: Seen,
                number: int,
                killed_at: int = killed_at,
                pass_on: threading.Event = pass_on,
                arrived: threading.Event = arrived,
            ) -> Reply:
                if number >= killed_at:  # the run dies while it waits for answers
                    arrived.set()
                    pass_on.wait(READY_SECONDS)
                return Reply()

            backend.script = hold
            command = start_command(folder, backend.url)
            assert arrived.wait(READY_SECONDS)
            command.send_signal(signal.SIGKILL)
            command.communicate()
            pass_on.set()
        backend.script = script(Reply())
        command = start_command(folder, backend.url)
        output, errors = command.communicate(timeout=READY_SECONDS)
        assert command.returncode == 0, errors
    assert backend.times.keys() == set(devices)
    assert sum(backend.times.values()) <= len(devices) + 3 * 8
    assert {one.state for one in known(folder).values()} == {"done"}
    assert "0 failed, 0 wait" in output


def test_two_commands_at_once_share_the_work_and_ask_for_nothing_twice(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    devices = [f"d{number}" for number in range(150)]
    fill(folder, *devices)
    both = threading.Barrier(2)

    def meet(_seen: Seen, number: int) -> Reply:
        if number <= 2:  # both are at work, since each begins with one
            both.wait(READY_SECONDS)
        return Reply()

    with backend_running(meet) as backend:
        commands = [start_command(folder, backend.url, "--json") for _ in range(2)]
        outputs = [command.communicate(timeout=READY_SECONDS) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], outputs
    assert backend.times == dict.fromkeys(devices, 1)
    told = [{json.loads(line).get("device_id") for line in output.splitlines()} for output, _ in outputs]
    assert told[0] & told[1] == {None}  # the summaries
    assert told[0] | told[1] == {*devices, None}


def test_an_answer_that_comes_too_late_does_not_undo_another_runs(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with contextlib.closing(Outbox(tmp_path)) as slow, contextlib.closing(Outbox(tmp_path)) as fast:
        (registration,) = slow.claim(8)
        assert not fast.claim(8)
        with fast.book.transaction() as connection:  # the claim ends
            connection.execute("UPDATE registrations SET due_at = 0")
        (again,) = fast.claim(8)
        fast.settle([TryOutcome(again, "done", "201 Created")])
        (told,) = slow.settle([TryOutcome(registration, "failed", "400 Bad HttpRequest")])
        assert (told.state, told.answer, told.attempts) == ("done", "201 Created", 1)
        slow.release([registration.number])
        assert slow.due_in() == (None, False)


def test_a_run_beside_others_leaves_what_they_have_in_hand(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with contextlib.closing(Outbox(tmp_path, 30)) as one, one:
        assert len(one.claim(1)) == 1
        with contextlib.closing(Outbox(tmp_path, 30)) as other, other:
            assert not other.claim(1)
    with contextlib.closing(Outbox(tmp_path, 30)) as next_one, next_one:
        assert len(next_one.claim(1)) == 1  # nobody has it in hand any more


def test_a_run_that_watches_takes_what_comes_later_until_it_is_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "devices"
    fill(folder, "first")
    with backend_running() as backend:
        command = start_command(folder, backend.url, "--watch", "--json")
        assert command.stdout is not None
        assert json.loads(command.stdout.readline())["device_id"] == "first"
        fill(folder, "second")
        assert json.loads(command.stdout.readline())["device_id"] == "second"
        command.send_signal(signal.SIGINT)
        output, errors = command.communicate(timeout=READY_SECONDS)
    assert command.returncode == 130, errors
    summary = json.loads(output)
    assert (summary["registered"], summary["waiting"]) == (2, 0)
