"""Reads the values of options: choices, times, serial numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import typer

from otahsm.errors import RequestRefusedError
from otahsm.pki.serial import SerialNumber


def choices_of(kind: Any, given: Sequence[str] | None, option: str) -> list[Any]:
    """Return the values of a Literal that a repeatable option, for which Typer can't, was given.

    Raises:
        BadParameter: one is none.
    """
    if unknown := set(given or ()).difference(get_args(kind)):
        raise typer.BadParameter(f"{option} {min(unknown)!r} is not one of {', '.join(get_args(kind))}")
    return list(given or ())


def moment_of(text: str, option: str) -> datetime | None:
    """Read a time, in UTC if it names no zone; None if there is no text.

    Raises:
        BadParameter: it is not in ISO 8601, or not in the years 1 to 9999 of UTC.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{option} takes 2026-11-23 or 2026-11-23T07:01:12Z") from None


def period_of(after: str, before: str) -> tuple[datetime | None, datetime | None]:
    """Read the times of --after and --before. Raises BadParameter: one is wrong, or the period is empty."""
    start, end = moment_of(after, "--after"), moment_of(before, "--before")
    if start is not None and end is not None and start >= end:
        raise typer.BadParameter("--after must be earlier than --before")
    return start, end


def serial_of(text: str, option: str) -> SerialNumber:
    """Read a serial number in hexadecimal, as `otahsm show` and OpenSSL print it. Raises BadParameter."""
    try:
        return SerialNumber.from_hex(text)
    except RequestRefusedError:
        raise typer.BadParameter(f"{option} takes a serial number: 1 to 40 hexadecimal digits") from None
