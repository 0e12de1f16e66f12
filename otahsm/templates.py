"""Texts with placeholders, as in "{plant}-{seq:06d}". No value can change the text around it.

And numbers with their nouns, and texts of others in one line.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from otahsm.errors import ConfigError

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WIDTH: Final = re.compile(r"0?[1-9]?[0-9]?[dxX]")
_MAX_LENGTH: Final = 256


@dataclass(frozen=True, slots=True)
class Template:
    """A text with named placeholders.

    Attributes:
        text: the text as it was given.
        names: the names of its placeholders.
    """

    text: str
    names: frozenset[str]

    @classmethod
    def parse(cls, text: str, *, numbers: frozenset[str] = frozenset()) -> Self:
        """Read a template.

        Args:
            text: "{name}" is a placeholder; "{{" and "}}" are braces.
            numbers: names of whole numbers, which may have a width, as in "{seq:06d}".

        Raises:
            ConfigError: the template is invalid.
        """
        try:
            names = frozenset(_places(text, numbers))
        except ValueError as error:
            raise ConfigError(
                f"invalid template: {error}",
                hint="Write placeholders as {name}, numbers as {seq:06d}, and braces as {{ and }}.",
            ) from None
        return cls(text, names)

    def fill(self, values: Mapping[str, str | int]) -> str:
        """Return the text with values in place of the placeholders.

        Raises:
            ConfigError: a value is missing.
        """
        if missing := sorted(self.names - values.keys()):
            raise ConfigError(
                f"the template {self.text!r} needs a value for {', '.join(missing)}",
                hint=f"Set it with --set {missing[0]}=VALUE, or with a column of that name in --ids.",
            )
        return self.text.format_map(values)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 leaf", "2,000 leaves"; the plural has an s if none is given."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def plain(text: str) -> str:
    """Return a text that somebody else wrote with its control characters escaped: it fits one line."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _places(text: str, numbers: frozenset[str]) -> Iterator[str]:
    """Yield the names in a template. Raises ValueError."""
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"it is longer than {_MAX_LENGTH} characters")
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        raise ValueError("a brace has no partner") from None
    for _, name, width, conversion in parts:
        if name is None:
            continue
        if not NAME.fullmatch(name) or conversion:
            raise ValueError(f"{{{name}}} must be a name of lower-case letters, digits and underscores")
        if width and (name not in numbers or not _WIDTH.fullmatch(width)):
            raise ValueError(f"{{{name}}} can't have the format {width!r}")
        yield name
