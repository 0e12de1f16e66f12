"""The limits that are ours: open calls of a client, and lines in the log."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest
import structlog
import structlog.testing

from otahsm.daemon.edge import limits
from otahsm.daemon.edge.open_calls import OpenCalls
from otahsm.daemon.log import Bounded, _relay
from otahsm.errors import Code, TooManyCallsError

from support.harness import READY_SECONDS, eventually


def test_a_client_has_so_many_calls_open_and_others_have_theirs() -> None:
    calls = OpenCalls(2, "calls")
    with calls.one_more("a"), calls.one_more("a"):
        with (
            pytest.raises(TooManyCallsError, match="a has reached its limit of 2 open calls") as refused,
            calls.one_more("a"),
        ):
            pass
        assert refused.value.code is Code.RESOURCE_EXHAUSTED
        assert refused.value.hint
        with calls.one_more("b"):
            pass


def test_a_call_that_has_ended_however_makes_room_for_another() -> None:
    calls = OpenCalls(1, "calls")
    for _ in range(3):
        with contextlib.suppress(ValueError), calls.one_more("a"):
            raise ValueError
    with calls.one_more("a"):
        pass


def said(bounded: Bounded, event: str, count: int) -> list[structlog.typing.EventDict]:
    """Log an event so many times; return the lines that got through."""
    lines: list[structlog.typing.EventDict] = []
    for _ in range(count):
        with contextlib.suppress(structlog.DropEvent):
            lines.append(bounded(None, "info", {"event": event}))
    return lines


def test_what_a_client_can_cause_at_will_is_said_so_often_and_then_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LOG_LINES_A_SECOND", 0.0)
    bounded = Bounded()
    assert len(said(bounded, "call.refused", 1000)) == limits.LOG_BURST
    assert len(said(bounded, "stream.ended", 10)) == 10
    monkeypatch.setattr(limits, "LOG_LINES_A_SECOND", 1e9)
    (line,) = said(bounded, "call.refused", 1)
    assert line["suppressed"] == 1000 - limits.LOG_BURST


@pytest.mark.parametrize("event", ["device.reset", "certificates.revoked", "batch.closed", "issuance.fault"])
def test_what_was_done_is_always_said(event: str) -> None:
    assert len(said(Bounded(), event, 10 * limits.LOG_BURST)) == 10 * limits.LOG_BURST


def test_a_line_on_standard_error_that_never_ends_is_logged_in_parts() -> None:
    source, sink = os.pipe()
    with structlog.testing.capture_logs() as log:
        relay = threading.Thread(target=_relay, args=(source,))
        relay.start()
        os.write(sink, b"x" * 40_000)
        eventually(lambda: len(log) >= 4, "nothing was logged before the line ended")
        os.write(sink, b"\nnext\n")
        os.close(sink)
        relay.join(READY_SECONDS)
    texts = [entry["text"] for entry in log]
    assert "".join(texts[:-1]) == "x" * 40_000
    assert max(map(len, texts)) <= 8192
    assert texts[-1] == "next"
