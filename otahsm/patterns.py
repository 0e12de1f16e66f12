"""Regular expressions that take linear time, whatever text a client chooses: RE2's.

Python's own can take exponential time, as `([a-z]+-?)+` does for 128 characters, and every other client would
wait. RE2 supports the same syntax except look-around and backreferences.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

_UP_TO: Final = re.compile(r"(?<!\\)\{,([0-9]+)\}")  # Python's; RE2 would take it for these characters

# How RE2 names what it has no algorithm for.
_UNSUPPORTED: Final = ("invalid perl operator", "invalid escape sequence", "bad repetition operator")
_ADVICE: Final = (
    "; RE2 has no look-around, no backreferences, no possessive repetition and no \\Z: do without them"
)


@dataclass(frozen=True)
class Pattern:
    """A regular expression, compiled when it is first needed: RE2 is a package of `otahsm[server]` alone.

    Attributes:
        pattern: the expression.
    """

    pattern: str

    def fullmatch(self, text: str, /) -> bool:
        """Return whether it matches a whole text, in time proportional to the text's length.

        Raises:
            ValueError: the pattern is invalid, and `compile_pattern` did not make it.
            ModuleNotFoundError: RE2 is not installed.
        """
        return self._match(_octets(text)) is not None

    @cached_property
    def _match(self) -> Callable[[bytes], object | None]:
        import re2  # noqa: PLC0415 - a client does without

        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        try:
            # Bytes, in UTF-8: for a str, RE2's Python part computes the places of groups, which takes longer.
            match: Callable[[bytes], object | None] = re2.compile(_octets(self.pattern), options).fullmatch
        except re2.error as error:
            what = error.args[0].decode(errors="replace")
            advice = _ADVICE if what.startswith(_UNSUPPORTED) else ""
            shown = what if what.isprintable() else ascii(what)
            raise ValueError(f"not a valid RE2 regular expression: {shown}{advice}") from None
        return match


def compile_pattern(pattern: str) -> Pattern:
    """Compile a regular expression.

    Raises:
        ValueError: it is invalid, or RE2 does not support it.
        ModuleNotFoundError: RE2 is not installed.
    """
    if found := _UP_TO.search(pattern):
        raise ValueError(f"not a valid RE2 regular expression: write {{0,{found[1]}}} for {found[0]}")
    compiled = Pattern(pattern)
    compiled.fullmatch("")
    return compiled


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
