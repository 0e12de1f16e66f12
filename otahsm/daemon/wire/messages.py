"""Reads bytes as messages."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from otahsm.errors import RequestRefusedError

_Message = TypeVar("_Message", bound=Message)


def read_message(kind: type[_Message], octets: bytes) -> _Message:
    """Return the message of a kind that octets are. Raises RequestRefusedError."""
    try:
        return kind.FromString(octets)
    except DecodeError:
        raise RequestRefusedError("request", "the message is not well-formed protobuf") from None
