"""Reads files that a configuration or an option names."""

from __future__ import annotations

from pathlib import Path

from otahsm.errors import ConfigError


def read_file(path: Path, what: str = "", *, hint: str = "Check the path.") -> bytes:
    """Read a whole file; `what` describes it in errors. Raises ConfigError: it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {what or path}: {error.strerror}", hint=hint) from None
