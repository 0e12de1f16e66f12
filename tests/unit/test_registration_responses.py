"""What becomes of a backend's responses: every device reaches it in the end."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from otahsm.errors import (
    BackendRefusedError,
    BackendUnavailableError,
)
from otahsm.line.run_state import RunState
from otahsm.registration.outbox import Outbox, Registered

from support.backend import BackendServer, Reply, Seen, backend_running
from support.harness import READY_SECONDS, free_port
from support.registering import (
    DER,
    SECRET,
    fill,
    known,
    rows,
    run,
    script,
)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 409])
def test_a_backend_that_knows_the_device_is_done_and_the_certificate_kept_no_longer(
    status: int, tmp_path: Path
) -> None:
    fill(tmp_path, "dev")
    body = b"" if status == 204 else b'{"code":"conflicting_device"}'
    with backend_running(script(Reply(status, body))) as backend:
        (told,) = run(tmp_path, backend.url)
        assert not run(tmp_path, backend.url)
    assert (told.state, told.attempts) == ("done", 1)
    assert told.answer.startswith(str(status))
    assert len(backend.seen) == 1
    (row,) = rows(tmp_path)
    assert row["certificate"] is None


@pytest.mark.parametrize("status", [400, 402, 404, 405, 410, 422, 499])
def test_what_is_refused_is_kept_with_the_answer_and_asked_for_again_when_it_is_wanted(
    status: int, tmp_path: Path
) -> None:
    fill(tmp_path, "bad", "good")
    refuse = {"bad"}

    def judge(seen: Seen, _number: int) -> Reply:
        return Reply(status, b"no:\n\x1b[31m bad") if seen.json["device_id"] in refuse else Reply()

    with backend_running(judge) as backend:
        run(tmp_path, backend.url)
        assert known(tmp_path)["good"].state == "done"
        assert known(tmp_path)["bad"].state == "failed"
        assert known(tmp_path)["bad"].answer.startswith(f"{status} ")
        assert known(tmp_path)["bad"].answer.endswith(": no: [31m bad")
        assert not run(tmp_path, backend.url)
        assert backend.times == {"bad": 1, "good": 1}
        refuse.clear()
        with contextlib.closing(Outbox(tmp_path)) as outbox:
            outbox.retry_failed()
        (told,) = run(tmp_path, backend.url)
    assert (told.device_id, told.state, told.attempts) == ("bad", "done", 2)
    assert backend.times == {"bad": 2, "good": 1}


@pytest.mark.parametrize(
    "passing",
    [
        *(Reply(status) for status in (408, 425, 429, 500, 503)),
        Reply(raw=b"no HTTP\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 20"),
        Reply(headers={"Content-Length": "0"}, drip=0.2),
    ],
    ids=["408", "425", "429", "500", "503", "no HTTP", "cut", "slow"],
)
def test_what_passes_is_asked_again(passing: Reply, tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running(script(passing, Reply())) as backend:
        first, second = run(tmp_path, backend.url, timeout_seconds=1)
    assert (first.state, first.attempts) == ("waiting", 1)
    assert first.due_at is not None
    assert first.answered_at is not None
    assert first.due_at > first.answered_at
    assert (second.state, second.attempts) == ("done", 2)
    assert [seen.json for seen in backend.seen] == [backend.seen[0].json] * 2


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    times = []

    def busy_once(_seen: Seen, number: int) -> Reply:
        times.append(time.monotonic())
        return Reply(503, headers={"Retry-After": "2"}) if number == 1 else Reply()

    with backend_running(busy_once) as backend:
        run(tmp_path, backend.url)
    assert times[1] - times[0] >= 2


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_a_run_ends_when_the_backend_wants_longer_than_its_patience_and_the_next_waits_too(
    *, as_date: bool, tmp_path: Path
) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(20)))
    when = datetime.now(UTC) + timedelta(hours=1)
    value = format_datetime(when, usegmt=True) if as_date else "3600"
    with backend_running(script(Reply(429, headers={"Retry-After": value}))) as backend:
        (told,) = run(tmp_path, backend.url)
        assert told.due_at is not None
        assert abs(told.due_at - when) < timedelta(minutes=5)
        assert len(backend.seen) == 1  # the others were spared
        backend.script = script(Reply())
        assert len(run(tmp_path, backend.url)) == 19
        assert len(backend.seen) == 20
    assert known(tmp_path)[told.device_id].state == "waiting"


@pytest.mark.parametrize("value", ["soon", "", "-5", "1e9", "9" * 5000, "Mon, 99 Foo 2030 00:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_is_no_trouble(value: str, tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running(script(Reply(503, headers={"Retry-After": value}), Reply())) as backend:
        assert [one.state for one in run(tmp_path, backend.url)] == ["waiting", "done"]


def test_a_backend_that_comes_up_later_gets_everything(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(30)))
    port = free_port()
    with contextlib.ExitStack() as stack:
        up: list[BackendServer] = []

        def start(one: Registered) -> None:
            if not up:
                assert one.state == "waiting"
                assert one.answer.startswith("no answer: ")
                up.append(stack.enter_context(backend_running(port=port)))

        run(tmp_path, f"http://127.0.0.1:{port}", tell=start)
        assert set(up[0].times) == {f"d{number}" for number in range(30)}
    assert {one.state for one in known(tmp_path).values()} == {"done"}


def test_a_backend_that_is_away_is_asked_for_one_device_at_a_time_and_named_in_the_end(
    tmp_path: Path,
) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(1000)))
    told: list[Registered] = []
    with pytest.raises(BackendUnavailableError, match=r"can't reach http://127\.0\.0\.1:\d+: no answer"):
        run(tmp_path, f"http://127.0.0.1:{free_port()}", patience=1, tell=told.append)
    assert 1 <= len(told) < 20
    assert {one.state for one in known(tmp_path).values()} == {"waiting"}
    assert all(row["certificate"] == DER for row in rows(tmp_path))


def test_a_backend_that_breaks_down_in_the_middle_is_not_hammered(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(300)))
    with backend_running(lambda _seen, number: Reply() if number <= 20 else Reply(503)) as backend:
        run(tmp_path, backend.url, patience=2)
    assert 21 <= len(backend.seen) <= 20 + 8 + 12  # what was under way, and one at a time
    assert sum(one.state == "done" for one in known(tmp_path).values()) == 20


def test_the_waits_of_a_device_grow_and_outlive_the_run(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    waits = []
    with backend_running(script(Reply(503))) as backend:
        for _ in range(7):
            (told,) = run(tmp_path, backend.url, patience=0)
            assert told.due_at is not None
            assert told.answered_at is not None
            waits.append((told.due_at - told.answered_at).total_seconds())
            assert not run(tmp_path, backend.url, patience=0)  # it is not due
            with contextlib.closing(RunState(tmp_path)) as book, book.transaction() as connection:
                connection.execute("UPDATE registrations SET due_at = 0")
    assert told.attempts == len(backend.seen) == 7
    assert all(
        longest / 2 <= wait <= longest for wait, longest in zip(waits, (1, 2, 4, 8, 16, 30, 30), strict=True)
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_ends_the_run_and_loses_nothing(status: int, tmp_path: Path) -> None:
    devices = [f"d{number}" for number in range(50)]
    fill(tmp_path, *devices)
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o600)
    headers = {"Authorization": {"file": "token"}}
    with backend_running(script(Reply(status, b"who are you?"))) as backend:
        with pytest.raises(BackendRefusedError, match=f"refused the token: {status} .*who are you") as raised:
            run(tmp_path, backend.url, headers=headers)
        assert len(backend.seen) == 1
        assert "Pending devices are kept" in raised.value.hint
        assert {(one.state, one.attempts) for one in known(tmp_path).values()} == {("waiting", 0)}
        backend.script = script(Reply())
        assert len(run(tmp_path, backend.url, headers=headers)) == 50


def test_a_token_that_ran_out_in_the_middle_is_read_again(tmp_path: Path) -> None:
    devices = [f"d{number}" for number in range(60)]
    fill(tmp_path, *devices)
    token = tmp_path / "token"
    token.write_text("first")
    token.chmod(0o600)

    renewed = threading.Event()

    def expires(seen: Seen, number: int) -> Reply:
        if number == 30:  # in one step: other requests read it meanwhile
            second = tmp_path / "second"
            second.write_text("second")
            second.chmod(0o600)
            second.replace(token)
            renewed.set()
        if number > 30:  # and none of them is to be told of it before
            renewed.wait(READY_SECONDS)
        expected = "first" if number < 30 else "second"
        return Reply() if seen.headers["Authorization"] == f"Bearer {expected}" else Reply(401)

    with backend_running(expires) as backend:
        told = run(tmp_path, backend.url, headers={"Authorization": {"prefix": "Bearer ", "file": "token"}})
    assert {one.device_id for one in told} == set(devices)
    assert {(one.state, one.attempts) for one in told} == {("done", 1)}


def test_a_redirect_is_not_followed_and_ends_the_run(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    with backend_running() as elsewhere:
        to = {"Location": f"{elsewhere.url}/devices?token={SECRET}"}
        with (
            backend_running(script(Reply(307, headers=to))) as backend,
            pytest.raises(
                BackendRefusedError, match=f"redirects to {elsewhere.url}/devices, which is not followed"
            ) as raised,
        ):
            run(tmp_path, backend.url)
    assert len(backend.seen) == 1
    assert not elsewhere.seen
    assert "Correct url" in raised.value.hint
    assert {one.state for one in known(tmp_path).values()} == {"waiting"}


def test_a_huge_answer_is_not_read_and_cut(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(8)))
    with backend_running(script(Reply(200, b"x" * 50_000_000))) as backend:
        told = run(tmp_path, backend.url, parallel=1)
    assert {one.state for one in told} == {"done"}
    assert max(len(one.answer) for one in told) < 250
    assert backend.connections == 8  # what is left of an answer can't be before the next one


def test_a_device_is_done_once_the_backend_says_so_whatever_is_missing_of_its_answer(tmp_path: Path) -> None:
    fill(tmp_path, "dev")
    with backend_running(script(Reply(201, b"{}", {"Content-Length": "1000"}))) as backend:
        (told,) = run(tmp_path, backend.url, timeout_seconds=1)
    assert told.state == "done"


def test_connections_are_kept_and_one_that_was_closed_meanwhile_costs_no_try(tmp_path: Path) -> None:
    fill(tmp_path, *(f"d{number}" for number in range(40)))
    with backend_running() as backend:
        assert {one.attempts for one in run(tmp_path, backend.url, parallel=2)} == {1}
    assert backend.connections <= 2
    fill(tmp_path, *(f"e{number}" for number in range(40)))
    with backend_running(script(Reply(hangs_up=True))) as backend:
        assert {(one.state, one.attempts) for one in run(tmp_path, backend.url)} == {("done", 1)}
    assert backend.connections == 40


def test_an_answer_is_read_to_its_end_when_the_backend_closes_the_connection_after_it(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    reply = Reply(201, b"whole" * 20, {"Connection": "close"}, hangs_up=True)
    with backend_running(script(reply)) as backend:
        told = run(tmp_path, backend.url)
    assert {(one.state, one.answer) for one in told} == {("done", "201 Created: " + "whole" * 20)}
