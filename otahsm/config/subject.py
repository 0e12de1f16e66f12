"""Reads what a profile puts into the subject after the common name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast, get_args

from otahsm.errors import ConfigError
from otahsm.pki import SubjectKind, SubjectPart
from otahsm.templates import Template

_KINDS: Final = get_args(SubjectKind)


def parse_subject(parts: Iterable[str]) -> tuple[SubjectPart, ...]:
    """Read parts such as "O=Acme" and "OU={plant}".

    Raises:
        ValueError: one is none.
    """
    return tuple(map(parse_part, parts))


def check_part(part: str) -> str:
    """Return a part as it is. Raises ValueError, without the part itself: it is none."""
    parse_part(part)
    return part


def parse_part(part: str) -> SubjectPart:
    """Read one part. Raises ValueError: it is none."""
    kind, equals, value = part.partition("=")
    if kind not in _KINDS or not equals or not value:
        raise ValueError(
            f"write KIND=VALUE, where KIND is one of {', '.join(_KINDS)}; the common name is the device id,"
            " and comes first by itself"
        )
    try:
        return SubjectPart(cast(SubjectKind, kind), Template.parse(value))
    except ConfigError:  # it would quote the value
        raise ValueError("its value is no template; places are {name}, and {{ and }} are braces") from None
