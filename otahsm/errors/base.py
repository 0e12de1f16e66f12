"""The base of all our errors, and how one is restored from what was sent or stored."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple, Self


class Code(IntEnum):
    """The canonical codes of gRPC (google/rpc/code.proto)."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ExitCode(IntEnum):
    """The exit codes of the `otahsm` command, besides 0 for success."""

    SOME_FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    OPERATOR = 4


class Violation(NamedTuple):
    """One field of a request that is wrong (google.rpc.BadRequest.FieldViolation)."""

    field: str
    description: str


class OtahsmError(Exception):
    """The root of all our errors.

    Args:
        message: one sentence that says what is wrong, without secrets.
        hint: one sentence that says what to do about it.

    Attributes:
        code: the gRPC code that it has on the wire.
        reason: stable, for programs; every class has its own.
        exit_code: what a command exits with that ends with it.
        violations: which fields of a request are wrong.
        retry_after: the seconds after which the same request may be granted; None: nobody knows, or never.
        metadata: what the message says, for programs, by names that the class documents.
    """

    code: Code = Code.INTERNAL
    reason: str = "INTERNAL"
    exit_code: ExitCode = ExitCode.USAGE
    default_hint: ClassVar[str] = "This is a bug in otahsm: please report it with the daemon's log."
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def as_value(self) -> Self:
        """Return the error without its tracebacks, which keep everything that was in hand when it was raised.

        For errors that are kept as outcomes.
        """
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self

    def __init_subclass__(cls) -> None:
        """Enter the class, for `from_reason`."""
        super().__init_subclass__()
        _BY_REASON[cls.reason] = cls

    @classmethod
    def _restored(
        cls,
        message: str,
        hint: str | None,
        violations: tuple[Violation, ...],
        retry_after: float | None,
        metadata: Mapping[str, str],
    ) -> Self:
        error = cls.__new__(cls)
        OtahsmError.__init__(error, message, hint=hint)  # what a subclass derives is among these already
        error.violations, error.retry_after, error.metadata = violations, retry_after, metadata
        return error


_BY_REASON: Final[dict[str, type[OtahsmError]]] = {OtahsmError.reason: OtahsmError}
KINDS: Final[Mapping[str, type[OtahsmError]]] = MappingProxyType(_BY_REASON)
"""Every class, by its reason."""


class UnknownError(OtahsmError):
    """The daemon returned an error that this version does not know.

    Args:
        code: the gRPC code; the exit code follows from it.
        reason: the daemon's, if it gave one.
        message: the daemon's.
        hint: the daemon's, if it gave one.
    """

    code = Code.UNKNOWN
    reason = "UNKNOWN"
    default_hint = "Check that client and daemon have the same version."

    def __init__(self, code: Code, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.reason = reason or type(self).reason
        self.exit_code = _EXIT_CODES.get(code, ExitCode.USAGE)


_EXIT_CODES: Final = {
    Code.INVALID_ARGUMENT: ExitCode.SOME_FAILED,
    Code.NOT_FOUND: ExitCode.SOME_FAILED,
    Code.ALREADY_EXISTS: ExitCode.SOME_FAILED,
    Code.RESOURCE_EXHAUSTED: ExitCode.SOME_FAILED,
    Code.FAILED_PRECONDITION: ExitCode.SOME_FAILED,
    Code.OUT_OF_RANGE: ExitCode.SOME_FAILED,
    Code.DEADLINE_EXCEEDED: ExitCode.UNAVAILABLE,
    Code.ABORTED: ExitCode.UNAVAILABLE,
    Code.UNAVAILABLE: ExitCode.UNAVAILABLE,
    Code.PERMISSION_DENIED: ExitCode.OPERATOR,
    Code.UNAUTHENTICATED: ExitCode.OPERATOR,
    Code.DATA_LOSS: ExitCode.OPERATOR,
}


def from_reason(
    code: int,
    reason: str,
    message: str,
    hint: str | None = None,
    *,
    violations: tuple[Violation, ...] = (),
    retry_after: float | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> OtahsmError:
    """Return the error that was sent or stored: of the class with this reason, or an `UnknownError`."""
    kind = _BY_REASON.get(reason, UnknownError)
    if kind is UnknownError:
        known = code in Code.__members__.values()
        return UnknownError(Code(code) if known else Code.UNKNOWN, reason, message, hint=hint)
    return kind._restored(message, hint, violations, retry_after, metadata)  # noqa: SLF001 - of this module
