"""The pipe's messages: what is encoded comes back, and what is broken is said to be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otahsm import errors
from otahsm.workers.frames import (
    HEADER,
    MAX_BODY,
    BrokenFrameError,
    Kind,
    decode_body,
    decode_error,
    decode_header,
    encode,
    encode_error,
)

TOLD = [
    errors.AuthorityUnusableError,
    errors.ConfigError,
    errors.PinRefusedError,
    errors.TokenRefusedError,
    errors.TokenUnavailableError,
]


@given(st.sampled_from(Kind), st.lists(st.binary(max_size=300)))
def test_a_message_comes_back_as_it_was(kind: Kind, parts: list[bytes]) -> None:
    message = encode(kind, parts)
    assert decode_header(message[: HEADER.size]) == (kind, len(message) - HEADER.size)
    assert decode_body(message[HEADER.size :]) == parts


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_a_body_that_is_cut_off_is_broken_unless_whole_parts_are_left(parts: list[bytes]) -> None:
    body = encode(Kind.BATCH, parts)[HEADER.size :]
    whole = {0, *itertools.accumulate(4 + len(part) for part in parts)}
    for length in range(len(body)):
        if length in whole:
            assert decode_body(body[:length]) == parts[: sorted(whole).index(length)]
        else:
            with pytest.raises(BrokenFrameError):
                decode_body(body[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_broken(body: bytes) -> None:
    try:
        parts = decode_body(body)
    except BrokenFrameError:
        return
    assert encode(Kind.REPLY, parts)[HEADER.size :] == body


def test_a_body_of_the_largest_size_is_announced_and_no_larger_one() -> None:
    assert decode_header(HEADER.pack(Kind.REPLY, MAX_BODY)) == (Kind.REPLY, MAX_BODY)
    for length in (MAX_BODY + 1, 2**32 - 1):
        with pytest.raises(BrokenFrameError):
            decode_header(HEADER.pack(Kind.REPLY, length))


@pytest.mark.parametrize("kind", [number for number in range(256) if number not in list(Kind)])
def test_an_unknown_kind_is_broken(kind: int) -> None:
    with pytest.raises(BrokenFrameError):
        decode_header(HEADER.pack(kind, 0))


@pytest.mark.parametrize("kind", TOLD)
def test_an_error_comes_back_as_the_error_that_it_was(kind: type[errors.OtahsmError]) -> None:
    again = decode_error(encode_error(kind("the token fell — off", hint="pick it up")))
    assert type(again) is kind
    assert (again.message, again.hint) == ("the token fell — off", "pick it up")


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"ConfigError", b"message"],
        [b"ConfigError", b"message", b"hint", b"more"],
        [b"OtahsmError", b"message", b"hint"],
        [b"SystemExit", b"message", b"hint"],
        [b"ConfigError", b"\xff", b"hint"],
    ],
)
def test_what_a_worker_may_not_report_is_broken(parts: list[bytes]) -> None:
    with pytest.raises(BrokenFrameError):
        decode_error(parts)
