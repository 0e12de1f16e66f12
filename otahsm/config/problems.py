"""Says in a line what is wrong with a value of a configuration file or an option, and what is allowed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

_WHOLE_NUMBER: Final = "must be a whole number"
_NUMBER: Final = "must be a number"
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
    "int_parsing": _WHOLE_NUMBER,  # of options
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "tuple_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "datetime_type": _TIME,
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


def describe_problems(error: ValidationError, model: type[BaseModel] = BaseModel) -> Iterator[str]:
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
        if problem["type"] == "extra_forbidden":
            close = get_close_matches(str(problem["loc"][-1]), _keys_at(problem["loc"], model), n=1)
            what += f" (did you mean {close[0]}?)" if close else ""
        yield f"{key}: {what}" if key else what


def _is_below(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    """Return whether `other` is inside `place`."""
    return len(other) > len(place) and other[: len(place)] == place


def _keys_at(place: tuple[int | str, ...], model: type[BaseModel]) -> Collection[str]:
    """Return the keys of the table that `place` is in."""
    for part in place[:-1]:
        if field := model.model_fields.get(str(part)):  # else it is a name or a number in a list
            model = next(_models_in(field.annotation), model)
    return model.model_fields


def _models_in(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from _models_in(inner)


def _describe(kind: str, message: str, context: Mapping[str, Any], value: object) -> str:
    if kind == "value_error":
        return str(context["error"])
    text = _MESSAGES.get(kind, message)
    return text.format(**context, value=value)
