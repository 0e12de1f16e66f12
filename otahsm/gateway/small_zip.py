"""Reads a few small files from a ZIP archive that may be anybody's.

Nothing is unpacked to the disk. What an archive of credentials never has is refused before anything is read:
folders, links, names that come twice, sizes that are out of proportion.
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
# The others that `zipfile` knows unpack as much as they like before they can be stopped.
_METHODS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_UNIX: Final = 3
# What `zipfile` raises for archives that are not what they should be.
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
    """An archive in memory, whose list of entries is in order.

    Args:
        path: the file.

    Raises:
        ConfigError: it can't be read, is no ZIP archive, or holds what it must not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        content = _read(path)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except _ZIP_ERRORS:
            what = "is empty" if not content else "is no ZIP archive, or only a part of one"
            raise ConfigError(f"{path} {what}", hint="Download it again, and compare its size.") from None
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        self._check()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all entries, in order."""
        return tuple(sorted(self._entries))

    def read(self, name: str) -> bytes | None:
        """Return an entry's content; None if there is no such entry.

        Raises:
            ConfigError: it is encrypted, too large, or damaged.
        """
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.flag_bits & _ENCRYPTED:
            raise self._wrong(f"{name} is encrypted", "Make it again without a password.")
        if entry.compress_type not in _METHODS:
            raise self._wrong(
                f"{name} is compressed in a way that is not supported", "Make it again with `zip`."
            )
        try:
            with self._zip.open(entry) as file:
                content = file.read(MAX_ENTRY_BYTES + 1)
        except _ZIP_ERRORS:
            raise self._wrong(f"{name} is damaged", "Download the archive again.") from None
        if len(content) > MAX_ENTRY_BYTES:
            raise self._wrong(
                f"{name} has more than {MAX_ENTRY_BYTES} bytes", "Is it the right archive? Download it again."
            )
        return content

    def _check(self) -> None:
        """Refuse what a person would not want to have read at all. Raises ConfigError."""
        entries = self._zip.infolist()
        if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
            raise self._wrong(
                f"it says that it holds {len(entries)} files of"
                f" {sum(entry.file_size for entry in entries)} bytes, which no credentials have",
                "Is it the right archive? Download it again.",
            )
        twice = [name for name, count in Counter(entry.filename for entry in entries).items() if count > 1]
        if twice:
            raise self._wrong(f"{twice[0]!r} is in it twice", "Whoever made it must say which is right.")
        for entry in entries:
            name = entry.orig_filename
            if "/" in name or "\\" in name or "\0" in name or name in {"", ".", ".."}:
                raise self._wrong(
                    f"the name {name!r} is not that of a file at its top",
                    "Make it of the files alone, without their folder: zip -j credentials.zip FOLDER/*",
                )
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.create_system == _UNIX and kind not in {0, stat.S_IFREG}:
                raise self._wrong(f"{name!r} is a link or something else that is no file", "Leave it out.")

    def _wrong(self, message: str, hint: str) -> ConfigError:
        return ConfigError(f"can't use {self._path}: {message}", hint=hint)


def _read(path: Path) -> bytes:
    """Read a file that is not too large. Raises ConfigError."""
    try:
        if not path.is_file():  # a pipe would keep us waiting
            path.stat()
            raise ConfigError(f"{path} is no file", hint="Give the path of credentials.zip.")
        with path.open("rb") as file:
            content = file.read(MAX_ARCHIVE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"can't read {path}: {error.strerror}", hint="Give the path of credentials.zip."
        ) from None
    if len(content) > MAX_ARCHIVE_BYTES:
        raise ConfigError(
            f"{path} has more than {MAX_ARCHIVE_BYTES} bytes, which no credentials.zip has",
            hint="Is it the right file?",
        )
    return content
