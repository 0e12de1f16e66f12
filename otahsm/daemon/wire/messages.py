"""Decoding messages."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from otahsm.errors import RequestRefusedError

_Message = TypeVar("_Message", bound=Message)


def read_message(kind: type[_Message], octets: bytes) -> _Message:
    """Decode a message of a type. Raises RequestRefusedError."""
    try:
        return kind.FromString(octets)
    except DecodeError:
        raise RequestRefusedError("request", "the message is not well-formed protobuf") from None
