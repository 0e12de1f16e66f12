"""The findings of `otahsm doctor`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from otahsm.errors import OtahsmError

Status: TypeAlias = Literal["ok", "warning", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        subject: what was checked, in a word or two.
        status: "fail" keeps the daemon from doing its work, "warning" may.
        message: what was found.
        fix: what to do about it; "" if nothing.
    """

    subject: str
    status: Status
    message: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def obstacle_to(folder: Path) -> Path | None:
    """Return what keeps this user from writing to a folder, or from creating it; None if nothing does."""
    while not folder.exists():
        folder = folder.parent
    return None if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else folder


def ok(subject: str, message: str) -> Check:
    """Return a check that passed."""
    return Check(subject, "ok", message)


def warning(subject: str, message: str, fix: str) -> Check:
    """Return a warning."""
    return Check(subject, "warning", message, fix)


def fail(subject: str, message: str, fix: str) -> Check:
    """Return a check that failed."""
    return Check(subject, "fail", message, fix)


def failed(subject: str, error: OtahsmError) -> Check:
    """Return a check that failed with an error."""
    return Check(subject, "fail", error.message, error.hint)
