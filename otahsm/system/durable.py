"""Writes files so that they are on the disk when it says so, whole or not at all.

A file, or a few that belong together, get their names when all of them are on the disk: `replace_files`, and
`create_file` and `new_path`, which never write over another. Thousands are written first (`write`) and then
waited for together (`make_durable`), which is fast; who does so renames them.

An OSError names the file that was to be written, never a temporary one. What fails leaves no temporary file;
what is killed leaves one that starts with `TEMPORARY`, which nobody reads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from otahsm.errors import FolderError

TEMPORARY: Final = ".new-"

_FLUSHERS: Final = 16
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})  # link(2); FAT, say


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file, in the place of one that is there; as `replace_files`."""
    replace_files({path: content}, mode)


def replace_files(contents: Mapping[Path, bytes], mode: int | None = None) -> None:
    """Write files, in the place of those that are there; none is replaced before all are on the disk.

    A symbolic link is replaced itself, not what it points to.

    Args:
        contents: by path.
        mode: of each, whatever the umask is; None: that of the file that is replaced, or else 0644 less what
            the umask takes.

    Raises:
        OSError: one can't be written.
    """
    with contextlib.ExitStack() as stack:
        temporary = {path: stack.enter_context(_staged(path, mode)) for path in contents}
        for path, content in contents.items():
            write(temporary[path], content)
        make_durable(list(temporary.values()))
        for path in contents:
            temporary[path].replace(path)
        make_durable(list({path.parent for path in contents}))


def create_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file that is not there yet.

    Args:
        path: where.
        content: of the file.
        mode: whatever the umask is; None: 0644 less what the umask takes.

    Raises:
        FileExistsError: there is something, were it a symbolic link to nothing.
        OSError: it can't be written.
    """
    with new_path(path, mode) as temporary:
        write(temporary, content)


@contextlib.contextmanager
def new_path(path: Path, mode: int | None = 0o600) -> Iterator[Path]:
    """Give an empty file to write to, which is at `path`, and on the disk, when the block has ended well.

    If the block fails, nothing is left. For arguments and errors see `create_file`; what the block raises
    passes.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _staged(path, mode) as temporary:
        yield temporary
        make_durable([temporary])
        _name(temporary, path)
        make_durable([path.parent])


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder if it is missing, and those above it, so that they are on the disk. Raises OSError."""
    if not path.is_dir():
        if not path.parent.exists():
            make_folder(path.parent)
        path.mkdir(mode, exist_ok=True)
        make_durable([path.parent])


def write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """Write a file, not yet durably; return its path. The umask takes from the mode. Raises OSError."""
    with _naming(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, mode), "wb") as file:
            file.write(content)
    return path


def make_durable(paths: Sequence[Path]) -> None:
    """Wait until files, and folders' lists of names, are on the disk; many at once share a disk flush.

    Raises:
        OSError: one is not there, or can't be written.
    """
    if len(paths) == 1:
        _flush(paths[0])
    elif paths:
        with ThreadPoolExecutor(max_workers=min(_FLUSHERS, len(paths))) as flushers:
            for _ in flushers.map(_flush, paths):
                pass


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn an OSError into a FolderError that names the file."""
    try:
        yield
    except OSError as error:
        raise FolderError(f"can't write {error.filename}: {error.strerror}") from error


@contextlib.contextmanager
def _staged(path: Path, mode: int | None) -> Iterator[Path]:
    """Make an empty file beside `path`; it is gone when the block has ended, if it was not renamed."""
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with _naming(path, temporary):
        _make_empty(temporary, _mode_of(path) if mode is None else mode)
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _make_empty(path: Path, mode: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644 if mode is None else mode)
    try:
        # Only what the umask took is given back: FAT knows no modes, and refuses to change them.
        if mode is not None and mode & ~os.fstat(descriptor).st_mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _mode_of(path: Path) -> int | None:
    """Return the mode of a file; None if there is no such."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) else None


def _name(temporary: Path, path: Path) -> None:
    """Give a complete file its name, but never another file's."""
    try:
        os.link(temporary, path)  # a rename would replace what has come there meanwhile
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        temporary.replace(path)


def _flush(path: Path) -> None:
    with _naming(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Have an OSError that names no file, or the temporary one, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
