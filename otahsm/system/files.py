"""Reads files that a configuration or an option names."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from otahsm.errors import ConfigError


class Files(Protocol):
    """What reads files: `PLAIN`, or `otahsm.system.trusted_files` for those that a process trusts."""

    def read(
        self, path: Path, what: str = "", *, hint: str = "Check the path.", secret: bool = False
    ) -> bytes:
        """Read a whole file; `what` describes it in errors. Raises ConfigError: it can't, or must not."""


def read_file(path: Path, what: str = "", *, hint: str = "Check the path.") -> bytes:
    """Read a whole file; `what` describes it in errors. Raises ConfigError: it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {what or path}: {error.strerror}", hint=hint) from None


class _PlainFiles:
    def read(
        self, path: Path, what: str = "", *, hint: str = "Check the path.", secret: bool = False
    ) -> bytes:
        del secret  # whoever runs a command may read what it can
        return read_file(path, what, hint=hint)


PLAIN: Final[Files] = _PlainFiles()


def read_text(path: Path, *, hint: str = "Check the path.", files: Files = PLAIN) -> str:
    """Read a whole file in UTF-8, with or without a byte order mark. Raises ConfigError: it is none."""
    content = files.read(path, hint=hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"can't read {path}: line {line} is not UTF-8", hint="Save it as UTF-8.") from None
