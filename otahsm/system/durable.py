"""Writes files so that they are on the disk, or that it is said why not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from otahsm.errors import FolderError

_FLUSHERS: Final = 16


def write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """Write a file, not yet durably; return its path. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path


def make_durable(paths: Sequence[Path]) -> None:
    """Wait until files, and folders' lists of names, are on the disk; many at once share a disk flush."""
    if paths:
        with ThreadPoolExecutor(max_workers=min(_FLUSHERS, len(paths))) as flushers:
            for _ in flushers.map(_flush, paths):
                pass


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn an OSError into a FolderError that names the file."""
    try:
        yield
    except OSError as error:
        raise FolderError(f"{error.filename} can't be written: {error.strerror}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
