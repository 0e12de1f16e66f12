"""Tasks and answers cross the pipe to a preparer unchanged."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import validity_of
from otahsm.pki.serial import SerialNumber
from otahsm.preparation.codec import (
    Draft,
    Task,
    decode_answers,
    decode_tasks,
    encode_answer,
    encode_tasks,
)

text = st.text(st.characters(exclude_categories=["Cs"]))
seconds = st.integers(0, int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()))
tasks = st.builds(Task, text, text, st.binary(), st.builds(validity_of, seconds, seconds), st.integers(0))
serials = st.integers(1, 2**160 - 1).map(SerialNumber)
drafts = st.builds(Draft, st.binary(), text, st.binary(), serials)
refusals = st.builds(RequestRefusedError, text, text, hint=text)


def facts(answer: Draft | RequestRefusedError) -> object:
    """Return what an answer is, for comparison: exceptions are equal only to themselves."""
    return answer if isinstance(answer, Draft) else (type(answer), answer.violations, answer.hint)


@given(st.lists(tasks))
def test_tasks_come_back_as_they_were(batch: list[Task]) -> None:
    assert list(decode_tasks(encode_tasks(batch))) == batch


@given(st.lists(drafts | refusals))
def test_answers_come_back_as_they_were(answers: list[Draft | RequestRefusedError]) -> None:
    again = decode_answers([part for answer in answers for part in encode_answer(answer)])
    assert [facts(answer) for answer in again] == [facts(answer) for answer in answers]


def test_a_device_id_that_is_no_unicode_does_not_break_its_batch() -> None:
    (task,) = decode_tasks(encode_tasks([Task("p", "device\ud800", b"", validity_of(0, 1), 1)]))
    assert task.device_id == "device?"


@pytest.mark.parametrize(
    "parts",
    [
        [b"perhaps", b"", b""],
        [b"ok", b"tbs"],
        [b"ok" + bytes(52), b"tbs", b"\xff"],
        [b"refusedcsr", b"message"],
        [b"refused\xff", b"message", b"hint"],
        [*encode_answer(Draft(b"", "device", b"", SerialNumber(1))), b"refused"],
    ],
)
def test_nonsense_is_no_answer(parts: list[bytes]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which one is of no interest: the preparer is broken
        decode_answers(parts)
