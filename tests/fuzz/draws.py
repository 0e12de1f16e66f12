"""Values that are taken from an input one after another; what is missing at its end is zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


class Draws:
    """An input that is taken apart from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def octets(self, count: int) -> bytes:
        """Take octets."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def number(self, limit: int) -> int:
        """Take a number from 0 on, below a limit."""
        return int.from_bytes(self.octets(((limit - 1).bit_length() + 7) // 8), "big") % limit

    def one_of(self, items: Sequence[_Item]) -> _Item:
        """Choose."""
        return items[self.number(len(items))]

    def text(self, most: int) -> str:
        """Take characters, as octets of UTF-8."""
        return self.octets(self.number(most + 1)).decode(errors="replace")

    def rest(self) -> bytes:
        """Take everything that is left."""
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken
