"""DER (ITU-T X.690): the few bytes that are cheaper to write and to read than to ask a library for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_SHORT_FORM_MAX: Final = 0x7F
_HIGH_TAG: Final = 0x1F


def tlv(tag: int, *contents: bytes) -> bytes:
    """Encode one value: identifier octet, definite length in its shortest form (X.690 10.1), contents."""
    content = b"".join(contents)
    length = len(content)
    if length <= _SHORT_FORM_MAX:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def integer(number: int) -> bytes:
    """Encode an INTEGER that is not negative (X.690, section 8.3).

    Its first bit is the sign: a number whose octets are full is preceded by another, which is zero.
    """
    return tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def children(der: bytes) -> Iterator[bytes]:
    """Yield the values that a constructed value holds, each with its identifier and length.

    Meant for what a strict parser has accepted; from anything else it makes no sense, but no harm.

    Raises:
        ValueError: lengths don't add up, or a tag has more than one octet.
    """
    at, end = _contents(der, 0)
    while at < end:
        _, following = _contents(der, at)
        yield der[at:following]
        at = following


def contents(der: bytes) -> bytes:
    """Return the contents of one value. Raises ValueError as `children`."""
    start, end = _contents(der, 0)
    return der[start:end]


def _contents(der: bytes, at: int) -> tuple[int, int]:
    """Return the start and end of the contents of the value at `at`."""
    start = at + 2
    if start > len(der) or der[at] & _HIGH_TAG == _HIGH_TAG:
        raise ValueError("a DER value is truncated, or has a tag of several octets")
    length = der[at + 1]
    if length > _SHORT_FORM_MAX:
        start += length & _SHORT_FORM_MAX
        length = int.from_bytes(der[at + 2 : start], "big")
    if start + length > len(der):
        raise ValueError("a DER value is longer than what holds it")
    return start, start + length
