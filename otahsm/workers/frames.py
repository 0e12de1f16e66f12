"""The messages between the daemon and a worker.

A message is its kind (1 octet), the number of its parts and the length of its body (4 octets each,
big-endian), and the body: the length of each part (4 octets each), then the parts, which are byte
strings. Errors are encoded as their class name, message and hint.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from otahsm import errors

HEADER: Final = struct.Struct("!BII")
MAX_BODY: Final = 64 * 1024 * 1024

_LENGTH: Final = 4  # octets
_ERRORS: Final[dict[str, type[errors.OtahsmError]]] = {
    kind.__name__: kind
    for kind in (
        errors.AuthorityUnusableError,
        errors.BadSignatureError,
        errors.ConfigError,
        errors.PinRefusedError,
        errors.TokenRefusedError,
        errors.TokenUnavailableError,
    )
}


class Kind(IntEnum):
    """The kinds of message."""

    SETUP = 1
    READY = 2
    REQUEST = 3
    RESPONSE = 4
    ERROR = 5
    PROGRESS = 6


class BrokenFrameError(Exception):
    """The other side violated the protocol and can't be used any more."""


class Header(NamedTuple):
    """The header of a message."""

    kind: Kind
    parts: int
    length: int


def encode(kind: Kind, parts: Sequence[bytes]) -> bytes:
    """Encode one message."""
    lengths = struct.pack(f"!{len(parts)}I", *map(len, parts))
    body = b"".join((lengths, *parts))
    return HEADER.pack(kind, len(parts), len(body)) + body


def decode_header(header: bytes) -> Header:
    """Decode a header.

    Raises:
        BrokenFrameError: it is malformed.
    """
    kind, parts, length = HEADER.unpack(header)
    if kind not in Kind.__members__.values() or not _LENGTH * parts <= length <= MAX_BODY:
        raise BrokenFrameError(f"kind {kind}, {parts} parts, length {length}")
    return Header(Kind(kind), parts, length)


def decode_body(header: Header, body: bytes) -> list[bytes]:
    """Return the byte strings of a body.

    Raises:
        BrokenFrameError: the lengths don't add up.
    """
    lengths = struct.unpack_from(f"!{header.parts}I", body)
    ends = list(accumulate(lengths, initial=_LENGTH * header.parts))
    if ends[-1] != len(body):
        raise BrokenFrameError(f"parts of {ends[-1]} octets in a body of {len(body)}")
    return [body[start:end] for start, end in pairwise(ends)]


def encode_error(error: errors.OtahsmError) -> list[bytes]:
    """Encode an error as parts."""
    return [type(error).__name__.encode(), error.message.encode(), error.hint.encode()]


def decode_error(parts: list[bytes]) -> errors.OtahsmError:
    """Decode an error.

    Raises:
        BrokenFrameError: it is not an error that a worker may report.
    """
    try:
        name, message, hint = (part.decode() for part in parts)
        return _ERRORS[name](message, hint=hint)
    except (KeyError, ValueError) as error:
        raise BrokenFrameError("malformed error") from error
