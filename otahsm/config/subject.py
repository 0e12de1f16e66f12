"""Reads what a profile puts into the subject after the common name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast, get_args

from otahsm.errors import ConfigError
from otahsm.pki.subject import SubjectKind, SubjectPart
from otahsm.templates import Template

_KINDS: Final = get_args(SubjectKind)


def parse_subject(parts: Iterable[str]) -> tuple[SubjectPart, ...]:
    """Read parts such as "O=Acme" and "OU={plant}".

    Raises:
        ValueError: a part is invalid.
    """
    return tuple(map(parse_part, parts))


def check_part(part: str) -> str:
    """Return a part unchanged. Raises ValueError, which never quotes the part, if it is invalid."""
    parse_part(part)
    return part


def parse_part(part: str) -> SubjectPart:
    """Read one part. Raises ValueError if it is invalid."""
    kind, equals, value = part.partition("=")
    if kind not in _KINDS or not equals or not value:
        raise ValueError(
            f"must be KIND=VALUE, where KIND is one of {', '.join(_KINDS)}; the common name is always the"
            " device id, and comes first"
        )
    try:
        return SubjectPart(cast(SubjectKind, kind), Template.parse(value))
    except ConfigError:  # it would quote the value
        raise ValueError(
            "the value is not a valid template; write placeholders as {name}, and braces as {{ and }}"
        ) from None
