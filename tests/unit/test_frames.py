"""The pipe's messages: what is encoded comes back, and what is broken is said to be."""

from __future__ import annotations

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
    header = decode_header(message[: HEADER.size])
    assert header == (kind, len(parts), len(message) - HEADER.size)
    assert decode_body(header, message[HEADER.size :]) == parts


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.data())
def test_a_body_that_is_cut_off_or_too_long_is_broken(parts: list[bytes], data: st.DataObject) -> None:
    message = encode(Kind.REQUEST, parts)
    header, body = decode_header(message[: HEADER.size]), message[HEADER.size :]
    shortest = 4 * len(parts)
    cut = data.draw(st.integers(shortest, len(body)))
    for other in (body[:cut], body + b"\0"):
        if other == body:
            continue
        with pytest.raises(BrokenFrameError):
            decode_body(header._replace(length=len(other)), other)


@given(st.integers(0, 20), st.binary(max_size=200))
def test_any_bytes_are_a_body_or_broken(count: int, body: bytes) -> None:
    try:
        header = decode_header(HEADER.pack(Kind.RESPONSE, count, len(body)))
        parts = decode_body(header, body)
    except BrokenFrameError:
        return
    assert encode(Kind.RESPONSE, parts)[HEADER.size :] == body


def test_a_body_of_the_largest_size_is_announced_and_no_larger_one() -> None:
    assert decode_header(HEADER.pack(Kind.RESPONSE, 1, MAX_BODY)) == (Kind.RESPONSE, 1, MAX_BODY)
    for length in (MAX_BODY + 1, 2**32 - 1):
        with pytest.raises(BrokenFrameError):
            decode_header(HEADER.pack(Kind.RESPONSE, 1, length))


def test_more_parts_than_the_body_has_room_for_are_broken() -> None:
    for parts, length in ((1, 0), (1, 3), (2**32 - 1, MAX_BODY)):
        with pytest.raises(BrokenFrameError):
            decode_header(HEADER.pack(Kind.RESPONSE, parts, length))


@pytest.mark.parametrize("kind", [number for number in range(256) if number not in list(Kind)])
def test_an_unknown_kind_is_broken(kind: int) -> None:
    with pytest.raises(BrokenFrameError):
        decode_header(HEADER.pack(kind, 0, 0))


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
