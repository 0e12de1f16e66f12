"""Tasks and answers cross the pipe to a preparer unchanged, and answers that can't be true don't."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otahsm.errors import RequestRefusedError
from otahsm.pki.certificate import Binding
from otahsm.pki.keytypes import KeyType
from otahsm.pki.keytypes.family import encode_spki
from otahsm.pki.names import subject_of
from otahsm.preparation.codec import Task, decode_answers, decode_tasks, encode_answer, encode_tasks

from support.attacks.forging import key_of
from support.authority import KEY_TYPES
from support.devices import new_request

text = st.text(st.characters(exclude_categories=["Cs"]))
tasks = st.builds(Task, text, text, st.binary())
printable = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=1000)
refusals = st.builds(RequestRefusedError, printable, printable, hint=printable)

ED_KEY = encode_spki(key_of("ed25519").public_key())
OTHER_KEY = encode_spki(key_of("ec-p256").public_key())
NO_KEY = b"\x30\x05\x0c\x03abc"
# All that a client could put into its own CSR to help the preparer that it takes over.
HELP = subject_of("device-12") + subject_of("device-7") + b"elsewhere" + ED_KEY + NO_KEY


@given(st.lists(tasks))
def test_tasks_come_back_as_they_were(batch: list[Task]) -> None:
    assert list(decode_tasks(encode_tasks(batch))) == batch


@given(st.lists(refusals))
def test_refusals_come_back_as_they_were(answers: list[RequestRefusedError]) -> None:
    asked = [Task("ota-connect", "", b"")] * len(answers)
    again = decode_answers(asked, [part for answer in answers for part in encode_answer(answer)])
    facts = [(answer.violations, answer.hint) for answer in again if isinstance(answer, RequestRefusedError)]
    assert facts == [(answer.violations, answer.hint) for answer in answers]


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_what_a_csr_asks_for_comes_back_as_it_was(key_type: KeyType) -> None:
    binding = Binding("device-1", encode_spki(key_of(key_type).public_key()))
    csr = subject_of(binding.device_id) + binding.spki
    assert decode_answers([Task("p", "", csr)], encode_answer(binding)) == [binding]


def test_a_device_id_that_is_no_unicode_does_not_break_its_batch() -> None:
    (task,) = decode_tasks(encode_tasks([Task("p", "device\ud800", b"")]))
    assert task.device_id == "device?"


@pytest.mark.parametrize(
    ("named", "parts"),
    [
        pytest.param("", [b"ok", b"device-1", ED_KEY], id="the beginning of the id"),
        pytest.param("", [b"ok", b"12", ED_KEY], id="the end of the id"),
        pytest.param("", [b"ok", b"device-13", ED_KEY], id="an id that is not in the CSR"),
        pytest.param("", [b"ok", b"elsewhere", ED_KEY], id="an id that is not a common name"),
        pytest.param("device-12", [b"ok", b"device-7", ED_KEY], id="another id than the request's"),
        pytest.param("", [b"ok", b"", ED_KEY], id="no id"),
        pytest.param("", [b"ok", b"\xff", ED_KEY], id="an id that is no text"),
        pytest.param("", [b"ok", b"\xed\xa0\x80", ED_KEY], id="half a surrogate pair"),
        pytest.param("", [b"ok", b"device-12", OTHER_KEY], id="another key"),
        pytest.param("", [b"ok", b"device-12", b""], id="no key"),
        pytest.param("", [b"ok", b"device-12", ED_KEY[:-1]], id="a piece of the key"),
        pytest.param("", [b"ok", b"device-12", ED_KEY + NO_KEY[:1]], id="the key and more"),
        pytest.param("", [b"ok", b"device-12", NO_KEY], id="what is no key"),
        pytest.param("", [b"ok" + bytes(52), b"\x30\x03tbs", b"device-12"], id="a TBS to be signed"),
        pytest.param("", [b"ok", b"device-12"], id="too little"),
        pytest.param("", [], id="nothing"),
        pytest.param("", [b"ok", b"device-12", ED_KEY] * 2, id="an answer too many"),
        pytest.param("", [b"perhaps", b"device-12", ED_KEY], id="neither yes nor no"),
        pytest.param("", [b"refusedcsr", b"message"], id="half a refusal"),
    ],
)
def test_a_preparer_that_was_taken_over_is_not_believed(named: str, parts: list[bytes]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which one is of no interest: the preparer is killed
        decode_answers([Task("ota-connect", named, HELP)], parts)


def test_what_its_csr_asks_for_is_all_that_a_preparer_gets() -> None:
    # A stated limit: the preparer alone verifies the signature of the CSR.
    assert decode_answers([Task("ota-connect", "", HELP)], [b"ok", b"device-7", ED_KEY]) == [
        Binding("device-7", ED_KEY)
    ]


def test_no_preparer_mixes_up_the_csrs_of_a_group() -> None:
    one, other = new_request("device-1"), new_request("device-2")
    keys = [request.csr for request in (one, other)]
    asked = [Task("ota-connect", "", csr) for csr in keys]
    with pytest.raises(ValueError, match="does not contain"):
        decode_answers(asked, [b"ok", b"device-2", ED_KEY, b"ok", b"device-1", ED_KEY])


def test_a_refusal_of_a_preparer_that_was_taken_over_is_short_and_in_one_line() -> None:
    said = [b"refused" + b"f" * 9000, b"\x1b[2J\xff\0\n" + b"m" * 9000, b"h" * 9000]
    (refused,) = decode_answers([Task("ota-connect", "", b"")], said)
    assert isinstance(refused, RequestRefusedError)
    ((field, message),) = refused.violations
    assert max(map(len, (field, message, refused.hint))) <= 1000
    assert message.startswith(r"\x1b[2J" + "\ufffd" + r"\x00\nmm")
