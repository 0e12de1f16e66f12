"""Files that get their name when they are complete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer

from otahsm.errors import FolderError
from otahsm.system import durable


@contextmanager
def new_path(path: Path, mode: int = 0o600) -> Iterator[Path]:
    """Yield an empty file to write to, which is at `path`, and on the disk, after a block without an error.

    If the block fails, nothing is left.

    Args:
        path: where.
        mode: by default only the owner may read it.

    Raises:
        FolderError: there is something at `path`, or nothing can be written there.
    """
    try:
        with durable.new_path(path, mode) as temporary:
            yield temporary
    except FileExistsError:
        raise FolderError(
            f"{path} exists; nothing was written", hint="Move it away, or choose another."
        ) from None
    except OSError as error:
        raise FolderError(f"can't write {path}: {error.strerror}") from error


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Open a new file for text; as `new_path`."""
    with new_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a new file, whole or not at all; by default only its owner may read it. Raises FolderError."""
    with new_path(path, mode) as temporary:
        temporary.write_bytes(content)


def write_output(path: Path | None, content: bytes) -> None:
    """Write what `--output` asks for: a new file that anybody may read, or to standard output.

    Raises:
        FolderError: there is something at `path`, or nothing can be written there.
    """
    if path is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_new(path, content, 0o644)
    typer.echo(f"Written: {path}", err=True)


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Write to standard output, line ends as they are."""
    sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]
    yield sys.stdout
    sys.stdout.flush()
