"""Page tokens: good for ever where they belong, refused everywhere else."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from otahsm.authority import START, Filter, Status
from otahsm.daemon.wire.paging import page_start, page_token
from otahsm.errors import RequestRefusedError

TEXTS = st.text(max_size=5)
TIMES = st.none() | st.integers(0, 1 << 48)
FILTERS = st.builds(
    Filter, TEXTS, TEXTS, TEXTS, st.sampled_from([None, *Status]), TIMES, TIMES, TEXTS, st.booleans()
)
SERIALS = st.binary(min_size=20, max_size=20)


def is_refused(wanted: Filter, token: str) -> bool:
    with pytest.raises(RequestRefusedError) as caught:
        page_start(wanted, token)
    return [violation.field for violation in caught.value.violations] == ["page_token"]


@given(FILTERS, SERIALS)
def test_a_token_leads_back_to_its_serial_number(wanted: Filter, serial: bytes) -> None:
    assert page_start(wanted, page_token(wanted, serial)) == serial


@pytest.mark.parametrize(
    ("wanted", "token"),
    [
        (Filter(), "AAECAwQFBgcICQoLDA0ODxAREhOJIl2dSB7Zome3"),
        (
            Filter("17", "cn:line-3", status=Status.VOID, after=5),
            "AAECAwQFBgcICQoLDA0ODxAREhMd5AYW8e8vOqrS",
        ),
        (Filter(batch="cameras-47"), "AAECAwQFBgcICQoLDA0ODxAREhMU68M4mkyx0hOs"),
        (Filter(before=0), "AAECAwQFBgcICQoLDA0ODxAREhOPDsEFLgBs34yZ"),
        (Filter(newest_first=True), "AAECAwQFBgcICQoLDA0ODxAREhMWua4stluaC6Qn"),
    ],
)
def test_a_token_stays_good_when_otahsm_is_updated(wanted: Filter, token: str) -> None:
    assert page_start(wanted, token) == bytes(range(20))


@given(st.binary(max_size=100))
def test_a_row_with_a_serial_number_that_is_none_ends_a_page_like_any_other(key: bytes) -> None:
    assert page_start(Filter(), page_token(Filter(), key)) == key


def test_no_token_leads_to_the_start() -> None:
    assert page_start(Filter(), "") == START


@given(FILTERS, FILTERS, SERIALS)
def test_a_token_of_another_filter_is_refused(wanted: Filter, other: Filter, serial: bytes) -> None:
    assume(wanted != other)
    assert is_refused(other, page_token(wanted, serial))


def test_texts_of_a_filter_do_not_run_into_each_other() -> None:
    assert is_refused(Filter("a", "b"), page_token(Filter("ab", ""), START))


def test_a_token_is_good_in_one_direction_only() -> None:
    wanted = Filter(client="cn:line-3")
    newest = wanted._replace(newest_first=True)
    assert is_refused(newest, page_token(wanted, START))
    assert is_refused(wanted, page_token(newest, START))


@given(FILTERS, SERIALS, st.integers(0, 39), st.characters())
def test_a_token_with_one_character_changed_is_refused(
    wanted: Filter, serial: bytes, position: int, character: str
) -> None:
    token = page_token(wanted, serial)
    changed = token[:position] + character + token[position + 1 :]
    assume(changed != token)
    assert is_refused(wanted, changed)


@given(st.text(min_size=1, max_size=60))
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    assert is_refused(Filter(), text)


@given(SERIALS, st.sampled_from(["{}=", " {}", "{}\n", "{}{}", "{:.39}", "{:.39}\0"]))
def test_a_token_with_something_more_or_less_is_refused(serial: bytes, form: str) -> None:
    token = page_token(Filter(), serial)
    assert is_refused(Filter(), form.format(token, token))
