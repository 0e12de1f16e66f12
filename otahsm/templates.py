"""Texts with places for values, as in "{plant}-{seq:06d}". Nothing in a value can change the text."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from otahsm.errors import ConfigError

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WIDTH: Final = re.compile(r"0?[1-9]?[0-9]?[dxX]")
_LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class Template:
    """A text with named places.

    Attributes:
        text: as it was given.
        names: what must have a value.
    """

    text: str
    names: frozenset[str]

    @classmethod
    def parse(cls, text: str, *, numbers: frozenset[str] = frozenset()) -> Self:
        """Read a template.

        Args:
            text: "{name}" is a place; "{{" and "}}" are braces.
            numbers: names of whole numbers, which may have a width, as in "{seq:06d}".

        Raises:
            ConfigError: it is none.
        """
        try:
            names = frozenset(_places(text, numbers))
        except ValueError as error:
            raise ConfigError(
                f"this is no template: {error}",
                hint="Write places as {name}, and numbers as {seq:06d}; {{ and }} are braces.",
            ) from None
        return cls(text, names)

    def fill(self, values: Mapping[str, str | int]) -> str:
        """Return the text with values in their places.

        Raises:
            ConfigError: a value is missing.
        """
        if missing := sorted(self.names - values.keys()):
            raise ConfigError(
                f"the template {self.text!r} needs {', '.join(missing)}, and there is no such value",
                hint="Name a column so, or give it a value with --set NAME=VALUE.",
            )
        return self.text.format_map(values)


def _places(text: str, numbers: frozenset[str]) -> Iterator[str]:
    """Yield the names in a template. Raises ValueError."""
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} characters")
    for _, name, width, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if not NAME.fullmatch(name) or conversion:
            raise ValueError(f"{{{name}}} is no name of small letters, digits and underscores")
        if width and (name not in numbers or not _WIDTH.fullmatch(width)):
            raise ValueError(f"{{{name}}} can't be written as {width!r}")
        yield name
