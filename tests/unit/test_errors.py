"""Every error tells a program its code and reason, and a person what to do."""

from __future__ import annotations

import re
import subprocess
import sys

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from otahsm import errors
from otahsm.errors import (
    KINDS,
    Code,
    ConfigError,
    ExitCode,
    OtahsmError,
    QuotaError,
    RequestRefusedError,
    UnknownError,
    Violation,
    from_reason,
)
from otahsm.errors.status import from_status, to_status

ALL = list(KINDS.values())


def test_every_class_is_offered_and_has_a_reason_of_its_own() -> None:
    offered = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert set(ALL) == offered
    assert len(ALL) > 30
    assert all(kind.reason == reason for reason, kind in KINDS.items())
    assert all(re.fullmatch(r"[A-Z][A-Z_]+[A-Z]", reason) for reason in KINDS)


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
    assert {code.name: code.value for code in Code} == {
        status.name: status.value[0] for status in grpc.StatusCode if status is not grpc.StatusCode.OK
    }


def test_no_exit_code_says_success_for_a_failure() -> None:
    assert 0 not in list(ExitCode)


def test_an_error_says_its_message_and_its_own_hint_or_the_kinds() -> None:
    assert str(ConfigError("the file is wrong")) == "the file is wrong"
    assert ConfigError("the file is wrong").hint == ConfigError.default_hint
    assert ConfigError("the file is wrong", hint="mend it").hint == "mend it"


def test_a_refused_request_names_its_field() -> None:
    error = RequestRefusedError("csr.subject", "it is empty")
    assert (error.message, error.violations) == ("it is empty", (Violation("csr.subject", "it is empty"),))


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not UnknownError])
def test_an_error_comes_back_from_its_status_as_it_was(kind: type[OtahsmError]) -> None:
    error = from_reason(kind.code, kind.reason, "it is wrong", "mend it")
    again = from_status(to_status(error))
    assert type(again) is type(error) is kind
    assert (str(again), again.message, again.hint) == ("it is wrong", "it is wrong", "mend it")


def test_what_a_class_carries_comes_back_too() -> None:
    refused = from_status(to_status(RequestRefusedError("csr.subject", "it is empty")))
    assert refused.violations == (Violation("csr.subject", "it is empty"),)
    assert from_status(to_status(QuotaError("enough", 2.5))).retry_after == 2.5
    assert from_status(to_status(QuotaError("enough"))).retry_after is None


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (Code.NOT_FOUND, ExitCode.SOME_FAILED),
        (Code.UNAVAILABLE, ExitCode.UNAVAILABLE),
        (Code.PERMISSION_DENIED, ExitCode.OPERATOR),
        (Code.INTERNAL, ExitCode.USAGE),
    ],
)
def test_an_error_of_a_newer_daemon_keeps_what_it_says_and_gets_an_exit_code(
    code: Code, exit_code: ExitCode
) -> None:
    newer = UnknownError(code, "TOO_NEW", "it is new", hint="look at the sky")
    again = from_status(to_status(newer))
    assert isinstance(again, UnknownError)
    assert (again.code, again.reason, again.exit_code) == (code, "TOO_NEW", exit_code)
    assert (again.message, again.hint) == ("it is new", "look at the sky")


def test_a_code_that_nobody_knows_is_taken_as_unknown() -> None:
    error = from_status(Status(code=99, message="what is it?"))
    assert (error.code, error.reason, error.exit_code) == (Code.UNKNOWN, "UNKNOWN", ExitCode.USAGE)
    assert error.hint == UnknownError.default_hint


def test_the_reason_of_somebody_else_is_none_of_ours() -> None:
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason="CONFLICT", domain="example.com"))
    error = from_status(Status(code=Code.ABORTED, message="it clashes", details=[detail]))
    assert (type(error), error.code, error.reason) == (UnknownError, Code.ABORTED, "UNKNOWN")


def test_errors_need_no_protobuf_so_that_workers_stay_small() -> None:
    code = "import otahsm.errors, sys; assert not {'google.protobuf', 'grpc'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
