"""Files that get their name when they are complete."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import TextIO

from otahsm.errors import FolderError


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Make an empty file under a temporary name, which is `path` when the block has ended well.

    Only its owner may read it. If the block fails, nothing is left. The block must make durable
    what it writes.

    Raises:
        FolderError: there is something at `path`, or nothing can be written there.
    """
    taken = FolderError(f"{path} exists; nothing was written", hint="Move it away, or choose another.")
    temporary: Path | None = None
    try:
        if path.exists():
            raise taken
        descriptor, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        _give_name(temporary, path)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise FolderError(f"{path} can't be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Open a file for text that is at `path`, durably, when the block has ended well; as `new_path`."""
    with new_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _give_name(temporary: Path, path: Path) -> None:
    """Give a complete file its name, durably, but never another file's. Raises OSError."""
    os.link(temporary, path)  # a rename would replace what has come there meanwhile
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_new(path: Path, parts: Iterable[str]) -> None:
    """Write a new file, whole or not at all. Raises FolderError."""
    with new_file(path) as file:
        file.writelines(parts)


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Write to standard output, line ends as they are."""
    sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]
    yield sys.stdout
    sys.stdout.flush()
