"""The edge of a call: what a client is told when something fails inside the daemon."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import pytest
import structlog

from otahsm.authority import Caller
from otahsm.daemon.edge import answering
from otahsm.daemon.edge.answering import errors_answered
from otahsm.errors import ConflictError


class Ended(Exception):  # noqa: N818 - it is no error
    """What `abort` raises."""


class FakeContext:
    """Remembers how the call was ended."""

    code: grpc.StatusCode
    message: str

    async def abort(self, code: grpc.StatusCode, message: str, _: object) -> NoReturn:
        self.code, self.message = code, message
        raise Ended


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(answering, "caller_of", lambda _: Caller("cn:test", bytes(32)))
    return FakeContext()


async def test_a_fault_that_nobody_foresaw_is_told_without_its_text(context: Any) -> None:
    with structlog.testing.capture_logs() as lines, pytest.raises(Ended):
        async with errors_answered("/otahsm.v1.Test/Call", context):
            raise ValueError("the PIN is 1234")
    assert context.code is grpc.StatusCode.INTERNAL
    assert "1234" not in context.message
    assert "its log says how" in context.message
    (line,) = lines
    assert (line["event"], line["client"], line["call"]) == ("call.fault", "cn:test", "/otahsm.v1.Test/Call")
    assert line["exc_info"]


async def test_an_error_of_ours_is_told_as_it_is(context: Any) -> None:
    with pytest.raises(Ended):
        async with errors_answered("/otahsm.v1.Test/Call", context):
            raise ConflictError("taken")
    assert (context.code, context.message) == (grpc.StatusCode.ALREADY_EXISTS, "taken")


async def test_what_grpc_raises_when_a_call_has_ended_is_left_to_it(context: Any) -> None:
    with pytest.raises(grpc.aio.AbortError):
        async with errors_answered("/otahsm.v1.Test/Call", context):
            raise grpc.aio.AbortError
    assert not hasattr(context, "code")
