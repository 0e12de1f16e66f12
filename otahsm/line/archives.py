"""Reproducible tar archives (POSIX.1-2001, pax) of device files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from otahsm.line.layouts import LAYOUTS, File

_COMPLETE: Final = tuple(
    layout.paths[File.CERTIFICATE] for layout in LAYOUTS.values() if layout.folder == "{}"
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file or a symbolic link in an archive."""

    name: str
    content: bytes = b""
    mode: int = 0o644
    link: str = ""


def tar_archive(members: Iterable[Member]) -> bytes:
    """Return an archive; its files belong to root, and their times are zero."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            add(archive, member)
    return packed.getvalue()


def add(archive: tarfile.TarFile, member: Member) -> None:
    """Add a file or a link to an open archive. Raises OSError."""
    info = tarfile.TarInfo(member.name)
    info.mode = member.mode
    if member.link:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, member.link, 0o777
        archive.addfile(info)
    else:
        info.size = len(member.content)
        archive.addfile(info, io.BytesIO(member.content))


def pack(folders: Iterable[Path], packed: BinaryIO) -> int:
    """Write the files of complete device folders to one archive, with a folder for each device.

    Args:
        folders: folders in the layouts `seed` or `aktualizr`; hidden and incomplete ones are skipped.
        packed: the archive file.

    Returns:
        The number of devices in it.

    Raises:
        OSError: a file can't be read or written.
    """
    count = 0
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in folders:
            if folder.name.startswith(".") or not any((folder / path).exists() for path in _COMPLETE):
                continue
            for path in sorted(folder.rglob("*")):
                name = str(PurePosixPath(folder.name, *path.relative_to(folder).parts))
                if path.is_symlink():  # ca.pem, which may point outside of the folder
                    add(archive, Member(name, link="root.crt"))
                elif path.is_file():
                    add(archive, Member(name, path.read_bytes(), path.stat().st_mode & 0o777))
            count += 1
    return count
