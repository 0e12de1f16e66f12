"""Reads a few small files from an untrusted ZIP archive.

Nothing is unpacked to the disk. What an archive of credentials never contains is refused before anything is
read: folders, links, duplicate names, excessive sizes.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Final

from otahsm.errors import ConfigError

MAX_ARCHIVE_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 256
MAX_ENTRY_BYTES: Final = 64 << 10
MAX_UNPACKED_BYTES: Final = 16 << 20
_ENCRYPTED: Final = 0x1  # general purpose bit 0 (APPNOTE.TXT, section 4.4.4)
# For other methods, `zipfile` may unpack any amount of data before it can be stopped.
_METHODS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_UNIX: Final = 3
# What `zipfile` raises for malformed archives.
_ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class SmallZip:
    """An archive in memory, whose list of files was checked.

    Args:
        path: the archive.

    Raises:
        ConfigError: it can't be read, is not a ZIP archive, or contains something that is not allowed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        content = _read(path)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except _ZIP_ERRORS:
            what = "is empty" if not content else "is not a ZIP archive, or is truncated"
            raise ConfigError(f"{path} {what}", hint="Download it again, and compare its size.") from None
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        self._check()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files, sorted."""
        return tuple(sorted(self._entries))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist.

        Raises:
            ConfigError: it is encrypted, too large, or damaged.
        """
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.flag_bits & _ENCRYPTED:
            raise self._wrong(f"{name} is encrypted", "Create the archive without a password.")
        if entry.compress_type not in _METHODS:
            raise self._wrong(
                f"{name} is compressed with an unsupported method", "Create the archive with `zip`."
            )
        try:
            with self._zip.open(entry) as file:
                content = file.read(MAX_ENTRY_BYTES + 1)
        except _ZIP_ERRORS:
            raise self._wrong(f"{name} is damaged", "Download the archive again.") from None
        if len(content) > MAX_ENTRY_BYTES:
            raise self._wrong(
                f"{name} has more than {MAX_ENTRY_BYTES} bytes", "Check that it is the right archive."
            )
        return content

    def _check(self) -> None:
        """Check the list of files. Raises ConfigError."""
        entries = self._zip.infolist()
        if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
            raise self._wrong(
                f"it claims to contain {len(entries)} files of"
                f" {sum(entry.file_size for entry in entries)} bytes, too many for credentials",
                "Check that it is the right archive.",
            )
        twice = [name for name, count in Counter(entry.filename for entry in entries).items() if count > 1]
        if twice:
            raise self._wrong(f"it contains {_named(twice[0])} twice", "Ask its author which one is right.")
        for entry in entries:
            name = entry.orig_filename
            if "/" in name or "\\" in name or "\0" in name or name in {"", ".", ".."}:
                raise self._wrong(
                    f"{_named(name)} is not at the top level",
                    "Create it without folders: zip -j credentials.zip FOLDER/*",
                )
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.create_system == _UNIX and kind not in {0, stat.S_IFREG}:
                raise self._wrong(f"{_named(name)} is not a regular file", "Create the archive without it.")

    def _wrong(self, message: str, hint: str) -> ConfigError:
        return ConfigError(f"can't use {self._path}: {message}", hint=hint)


def _named(name: str) -> str:
    """Name a file in an error. A damaged list may have a part of a secret file in place of a name."""
    return repr(name) if name.isprintable() else "a file whose name is no text"


def _read(path: Path) -> bytes:
    """Read a file that is not too large. Raises ConfigError."""
    try:
        if not path.is_file():  # a pipe would block
            path.stat()
            raise ConfigError(f"{path} is not a file", hint="Give the path of credentials.zip.")
        with path.open("rb") as file:
            content = file.read(MAX_ARCHIVE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"can't read {path}: {error.strerror}", hint="Give the path of credentials.zip."
        ) from None
    if len(content) > MAX_ARCHIVE_BYTES:
        raise ConfigError(
            f"{path} has more than {MAX_ARCHIVE_BYTES} bytes, too many for a credentials.zip",
            hint="Check that it is the right file.",
        )
    return content
