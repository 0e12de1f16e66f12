"""Writes files durably and atomically.

One or a few files get their names when all of them are on the disk: `replace_files`, and `create_file` and
`new_path`, which never overwrite a file. Thousands of files are first written (`write`), and then flushed
together (`make_durable`), which is faster; the caller renames them.

An OSError names the target file, never a temporary one. A failed write leaves no temporary file; a killed one
leaves a file that starts with `TEMPORARY`, which nobody reads.
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
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})  # link(2), such as on FAT


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file, replacing an existing one; as `replace_files`."""
    replace_files({path: content}, mode)


def replace_files(contents: Mapping[Path, bytes], mode: int | None = None) -> None:
    """Write files, replacing existing ones; none is replaced before all are on the disk.

    A symbolic link is replaced itself, not its target.

    Args:
        contents: the content of each file, by path.
        mode: the mode of each file, whatever the umask is; None for that of the replaced file, otherwise 0644
            minus the umask.

    Raises:
        OSError: a file can't be written.
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
    """Write a new file.

    Args:
        path: the file.
        content: its content.
        mode: its mode, whatever the umask is; None for 0644 minus the umask.

    Raises:
        FileExistsError: the path exists, even as a dangling symbolic link.
        OSError: it can't be written.
    """
    with new_path(path, mode) as temporary:
        write(temporary, content)


@contextlib.contextmanager
def new_path(path: Path, mode: int | None = 0o600) -> Iterator[Path]:
    """Yield the path of an empty file to write to, which becomes `path`, durably, after the block.

    If the block raises, nothing is left. For arguments and errors see `create_file`.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _staged(path, mode) as temporary:
        yield temporary
        make_durable([temporary])
        _name(temporary, path)
        make_durable([path.parent])


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Create a folder and its parents durably, if they are missing. Raises OSError."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not path.is_dir():
        if not path.parent.exists():
            make_folder(path.parent)
        path.mkdir(mode, exist_ok=True)
        make_durable([path.parent])


def open_beside(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of ours in its folder; return its descriptor. It is never a symbolic link.

    Raises:
        OSError: it can't be opened, or it is a symbolic link.
    """
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return os.open(path.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        error.filename = str(path)
        raise


def write(path: Path, content: bytes, mode: int = 0o644) -> Path:
    """Write a file, not yet durably; return its path. The umask applies to the mode. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with _naming(path), os.fdopen(open_beside(path, flags, mode), "wb") as file:
        file.write(content)
    return path


def make_durable(paths: Sequence[Path]) -> None:
    """Flush files and folders to the disk; many at once share a disk flush.

    Raises:
        OSError: one does not exist, or can't be written.
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
    """Create an empty file beside `path`, which is deleted after the block unless it was renamed."""
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with _naming(path, temporary):
        _make_empty(temporary, _mode_of(path) if mode is None else mode)
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _make_empty(path: Path, mode: int | None) -> None:
    descriptor = open_beside(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if mode is None else mode)
    try:
        # Only if the umask removed bits: FAT has no modes, and refuses to change them.
        if mode is not None and mode & ~os.fstat(descriptor).st_mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _mode_of(path: Path) -> int | None:
    """Return the mode of a file; None if it does not exist."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) else None


def _name(temporary: Path, path: Path) -> None:
    """Give a complete file its name, without overwriting another file."""
    try:
        os.link(temporary, path)  # a rename would replace a file created in the meantime
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
    """Make an OSError that names no file, or the temporary one, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
