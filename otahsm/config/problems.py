"""Says in a line what is wrong with a value of a configuration file, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

_WHOLE_NUMBER: Final = "must be a whole number"
_NUMBER: Final = "must be a number"
_BOOLEAN: Final = "must be true or false"
_LIST: Final = "must be a list"
_TABLE: Final = "must be a table"
_TIME: Final = "must be a date and time with a time zone, as in 2027-01-01T00:00:00Z"

# By pydantic's type of error, filled with its context; `value` is the number that is out of range.
_MESSAGES: Final[Mapping[str, str]] = {
    "extra_forbidden": "unknown key",
    "missing": "missing, but required",
    "string_type": "must be a string",
    "path_type": "must be a path, written as a string",
    "int_type": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "tuple_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "timezone_aware": _TIME,
    "is_instance_of": "must be a PKCS#11 URI, written as a string",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "greater_than": "must be more than {gt:g}, not {value}",
    "greater_than_equal": "must be at least {ge}, not {value}",
    "less_than_equal": "must be at most {le}, not {value}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match the regular expression {pattern}",
}


def describe_problems(error: ValidationError) -> Iterator[str]:
    """Yield a line for each value that is wrong: its key, what is wrong, and what is allowed.

    Values are left out on purpose, but for numbers out of range: a misplaced PIN must not end up in a log.
    """
    problems = error.errors(include_url=False)
    for problem in problems:
        if problem["type"] == "too_short" and any(
            _is_below(problem["loc"], other["loc"]) for other in problems
        ):
            continue  # it is not empty: what it holds is wrong, which is its own problem
        key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        what = _describe(problem["type"], problem["msg"], problem.get("ctx", {}), problem["input"])
        yield f"{key}: {what}" if key else what


def _is_below(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    """Return whether `other` is inside `place`."""
    return len(other) > len(place) and other[: len(place)] == place


def _describe(kind: str, message: str, context: Mapping[str, Any], value: object) -> str:
    if kind == "value_error":
        return str(context["error"])
    text = _MESSAGES.get(kind, message)
    return text.format(**context, value=value if isinstance(value, int | float) else "that")
