"""The few bytes of DER (ITU-T X.690) that are cheaper to write than to ask a library for."""

from __future__ import annotations

from typing import Final

SEQUENCE: Final = 0x30
SET: Final = 0x31
BIT_STRING: Final = 0x03
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13

_SHORT_FORM_MAX: Final = 0x7F


def tlv(tag: int, *contents: bytes) -> bytes:
    """Encode one value: identifier octet, definite length in its shortest form (X.690 10.1), contents."""
    content = b"".join(contents)
    length = len(content)
    if length <= _SHORT_FORM_MAX:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content
