"""Serial numbers: one value, and one place where it is read, written and made."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otahsm.errors import RequestRefusedError
from otahsm.pki.serial import SerialNumber, first_key, make_serial

serials = st.integers(1, (1 << 160) - 1).map(SerialNumber)


@given(serials)
def test_a_serial_number_survives_every_form_that_it_is_written_in(serial: SerialNumber) -> None:
    assert SerialNumber.from_octets(serial.octets) == serial
    assert SerialNumber.from_octets(bytes(3) + serial.octets) == serial
    assert SerialNumber.from_key(serial.key) == serial
    assert SerialNumber.from_hex(serial.hex()) == serial
    assert pickle.loads(pickle.dumps(serial)) == serial  # noqa: S301 - our own
    assert json.loads(json.dumps(serial)) == serial


@given(serials, serials)
def test_serial_numbers_and_their_keys_sort_as_numbers_do(one: SerialNumber, other: SerialNumber) -> None:
    assert (one < other) == (int(one) < int(other)) == (one.key < other.key)
    assert len(one.key) == len(other.key) == 20
    assert one.octets[0] > 0
    assert hash(one) == hash(int(one))


@pytest.mark.parametrize("number", [0, -1, 1 << 160])
def test_a_number_that_is_not_positive_or_too_large_is_no_serial_number(number: int) -> None:
    with pytest.raises(RequestRefusedError, match="positive and have 1 to 20 octets") as caught:
        SerialNumber(number)
    assert caught.value.violations[0].field == "serial_number"


@pytest.mark.parametrize("octets", [b"", bytes(20), b"\1" * 21])
def test_octets_that_hold_none_are_refused(octets: bytes) -> None:
    with pytest.raises(RequestRefusedError, match="1 to 20 octets"):
        SerialNumber.from_octets(octets)


@pytest.mark.parametrize("text", ["", "0x", "00", "xyz", "-1a", "1 2", "1_2", "1" * 41, "\uff11a"])
def test_text_that_holds_none_is_refused(text: str) -> None:
    with pytest.raises(RequestRefusedError, match="1 to 20 octets"):
        SerialNumber.from_hex(text)


@pytest.mark.parametrize("text", ["1a2B", "0x1a2b", "1A:2B", " 001a2b ", "0" * 40 + "1a2b"])
def test_hexadecimal_is_read_as_tools_print_it(text: str) -> None:
    assert SerialNumber.from_hex(text) == 0x1A2B


@pytest.mark.parametrize(
    ("serial", "shown"), [(0x1, "01"), (0xF0, "f0"), (0x875AE, "0875ae"), (2**158, "40" + "00" * 19)]
)
def test_a_serial_number_is_shown_in_whole_octets_as_openssl_does(serial: int, shown: str) -> None:
    assert SerialNumber(serial).hex() == shown


@given(st.binary(min_size=14, max_size=14), st.integers(1, 2**47 - 1))
def test_a_serial_is_the_time_and_112_random_bits_positive_and_at_most_20_octets(
    random: bytes, ms: int
) -> None:
    random = b"\x80" + random[1:]
    serial = make_serial(random, ms)
    assert 0 < serial < 1 << 159
    assert serial.key == ms.to_bytes(6, "big") + random
    assert serial.milliseconds == ms
    assert first_key(ms) < serial.key < first_key(ms + 1)


@pytest.mark.parametrize(("milliseconds", "key"), [(-1, bytes(20)), (0, bytes(20)), (1 << 60, b"\xff" * 20)])
def test_a_time_that_no_serial_number_can_have_has_the_nearest_key(milliseconds: int, key: bytes) -> None:
    assert first_key(milliseconds) == key


def test_serials_sort_by_the_time_at_which_they_were_made() -> None:
    assert make_serial(b"\xff" * 14, 1_790_000_000_000) < make_serial(b"\x80" + bytes(13), 1_790_000_000_001)


@pytest.mark.parametrize(
    "random",
    [b"", b"\xff" * 13, b"\xff" * 15, bytes(14), bytes(13) + b"\x01", bytes(9) + b"\xff" * 5],
    ids=["none", "13 octets", "15 octets", "zeros", "one bit", "72 zero bits"],
)
def test_a_serial_is_not_made_of_what_no_random_source_gives(random: bytes) -> None:
    with pytest.raises(ValueError, match="random"):
        make_serial(random, 1)


@pytest.mark.parametrize("milliseconds", [-1, 0, 2**47])
def test_a_serial_is_not_made_at_a_time_that_is_none(milliseconds: int) -> None:
    with pytest.raises(ValueError, match="not a valid time"):
        make_serial(b"\xff" * 14, milliseconds)
