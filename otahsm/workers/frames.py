"""What goes through the pipe between the daemon and a worker.

A message is its kind (1 octet), the length of its body (4 octets, big-endian) and the body; the body is
byte strings, each after its length (4 octets). Errors travel as their reason, message and hint.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from otahsm import errors

HEADER: Final = struct.Struct("!BI")
MAX_BODY: Final = 64 * 1024 * 1024

_LENGTH: Final = struct.Struct("!I")
_ERRORS: Final[dict[str, type[errors.OtahsmError]]] = {
    kind.__name__: kind
    for kind in (
        errors.AuthorityUnusableError,
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
    BATCH = 3
    REPLY = 4
    ERROR = 5


class BrokenFrameError(Exception):
    """The other side does not speak the protocol: it is of no further use."""


def encode(kind: Kind, parts: Sequence[bytes]) -> bytes:
    """Encode one message."""
    body = b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))
    return HEADER.pack(kind, len(body)) + body


def decode_header(header: bytes) -> tuple[Kind, int]:
    """Return a message's kind and the length of its body.

    Raises:
        BrokenFrameError: it is no header of ours.
    """
    kind, length = HEADER.unpack(header)
    if kind not in Kind.__members__.values() or length > MAX_BODY:
        raise BrokenFrameError(f"kind {kind}, length {length}")
    return Kind(kind), length


def decode_body(body: bytes) -> list[bytes]:
    """Return the byte strings of a body.

    Raises:
        BrokenFrameError: the lengths don't add up.
    """
    parts = []
    position = 0
    while position < len(body):
        start = position + _LENGTH.size
        if start > len(body):
            raise BrokenFrameError("a length is cut off")
        (length,) = _LENGTH.unpack_from(body, position)
        position = start + length
        if position > len(body):
            raise BrokenFrameError("a part is cut off")
        parts.append(body[start:position])
    return parts


def encode_error(error: errors.OtahsmError) -> list[bytes]:
    """Turn an error into parts."""
    return [type(error).__name__.encode(), error.message.encode(), error.hint.encode()]


def decode_error(parts: list[bytes]) -> errors.OtahsmError:
    """Turn parts back into the error that they were.

    Raises:
        BrokenFrameError: they are no error that a worker may report.
    """
    try:
        name, message, hint = (part.decode() for part in parts)
        return _ERRORS[name](message, hint=hint)
    except (KeyError, ValueError) as error:
        raise BrokenFrameError("no error of ours") from error
