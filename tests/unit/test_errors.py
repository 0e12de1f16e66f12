"""Every error tells a program its code and reason, and a person what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import grpc
import pytest

from otahsm import errors
from otahsm.errors import Code, ConfigError, ExitCode, OtahsmError, RequestRefusedError, Violation


def family(kind: type[OtahsmError]) -> Iterator[type[OtahsmError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


ALL = [kind for kind in family(OtahsmError) if kind.__module__ == errors.__name__]


def test_all_errors_of_the_module_are_in_the_family() -> None:
    raised = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert set(raised) == set(ALL)
    assert len(ALL) > 10


def test_every_error_has_a_reason_of_its_own() -> None:
    reasons = [kind.reason for kind in ALL]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[A-Z][A-Z_]+[A-Z]", reason) for reason in reasons)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_a_code_a_hint_an_exit_code_and_a_sentence_about_itself(
    kind: type[OtahsmError],
) -> None:
    assert kind.code in Code
    assert kind.exit_code in ExitCode
    assert kind.default_hint.endswith(".")
    assert kind.__doc__
    assert kind.__name__.endswith("Error")


def test_our_codes_are_those_of_grpc() -> None:
    assert {code.name: code.value for code in Code}.items() <= {
        status.name: status.value[0] for status in grpc.StatusCode
    }.items()


def test_no_exit_code_says_success_for_a_failure() -> None:
    assert 0 not in list(ExitCode)


def test_an_error_says_its_message_and_its_own_hint_or_the_kinds() -> None:
    assert str(ConfigError("the file is wrong")) == "the file is wrong"
    assert ConfigError("the file is wrong").hint == ConfigError.default_hint
    assert ConfigError("the file is wrong", hint="mend it").hint == "mend it"


def test_a_refused_request_names_its_field() -> None:
    error = RequestRefusedError("csr.subject", "it is empty")
    assert (error.message, error.violations) == ("it is empty", (Violation("csr.subject", "it is empty"),))
