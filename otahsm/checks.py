"""What `otahsm doctor` finds, one thing at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from otahsm.errors import OtahsmError

Status: TypeAlias = Literal["ok", "warning", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        subject: what, in a word or two.
        status: "fail" keeps the daemon from doing its work, "warning" may.
        message: what was seen.
        fix: what to do about it; "" if nothing.
    """

    subject: str
    status: Status
    message: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def nearest_existing(path: Path) -> Path:
    """Return what exists of a path that is yet to be made: itself, or the nearest of its parents."""
    while not path.exists():
        path = path.parent
    return path


def ok(subject: str, message: str) -> Check:
    """Say that all is well."""
    return Check(subject, "ok", message)


def warning(subject: str, message: str, fix: str) -> Check:
    """Say what may go wrong."""
    return Check(subject, "warning", message, fix)


def fail(subject: str, message: str, fix: str) -> Check:
    """Say what is wrong."""
    return Check(subject, "fail", message, fix)


def failed(subject: str, error: OtahsmError) -> Check:
    """Say what is wrong in the words of an error."""
    return Check(subject, "fail", error.message, error.hint)
