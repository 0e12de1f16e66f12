"""Secrets in files, for commands."""

from __future__ import annotations

from pathlib import Path

from otahsm.system.secret_files import one_line, read_secret_file


def secret_in(path: Path | None, what: str) -> str | None:
    """Read a secret of one line; None without a file. Raises ConfigError."""
    if path is None:
        return None
    named = f"{what} in {path}"
    return one_line(read_secret_file(path, named), named)
