"""The edge of a call: what a client is told when something fails inside the daemon."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import pytest

from otahsm.authority import Caller
from otahsm.daemon import answering
from otahsm.daemon.answering import answered
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


async def fail(error: Exception) -> None:
    raise error


async def test_a_fault_that_nobody_foresaw_is_told_without_its_text(context: Any) -> None:
    with pytest.raises(Ended):
        await answered(fail(ValueError("the PIN is 1234")), context, "test.fault")
    assert context.code is grpc.StatusCode.INTERNAL
    assert "1234" not in context.message
    assert "its log says how" in context.message


async def test_an_error_of_ours_is_told_as_it_is(context: Any) -> None:
    with pytest.raises(Ended):
        await answered(fail(ConflictError("taken")), context, "test.fault")
    assert (context.code, context.message) == (grpc.StatusCode.ALREADY_EXISTS, "taken")
