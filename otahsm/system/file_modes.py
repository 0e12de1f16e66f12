"""Checks that other users can't change files that the daemon trusts, or read its secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.errors import ConfigError
from otahsm.system.secret_files import is_private

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ROOT: Final = 0


class GuardedFile(NamedTuple):
    """A file that the daemon trusts or keeps secret, and its description for messages."""

    what: str
    path: Path
    secret: bool = False


def check_file_modes(files: Iterable[GuardedFile]) -> None:
    """Refuse files that users other than root and this one can change, and secrets that they can read.

    Raises:
        ConfigError: the first problem.
    """
    for problem in _problems(files, {_ROOT, os.geteuid()}):
        raise problem


def find_open_files(files: Iterable[GuardedFile]) -> Iterator[ConfigError]:
    """Yield the problems with the modes and owners of files.

    Only its owner may read a secret, not even a group, since its members are unknown. systemd credentials are
    private to the service whatever their mode is: it is the mask of an access list. Only root and this user
    may own or write files. If this is root, it may be checking the daemon of another user, whose files it
    can't recognise; then owners are not checked. Missing files and parent folders are not checked.
    """
    user = os.geteuid()
    yield from _problems(files, None if user == _ROOT else {_ROOT, user})


def _problems(files: Iterable[GuardedFile], owners: Collection[int] | None) -> Iterator[ConfigError]:
    for what, path, secret in files:
        if _is_credential(path):
            continue
        try:
            status = path.stat()
        except OSError:  # reported when the file is read
            continue
        if secret and not is_private(status.st_mode):
            yield ConfigError(f"other users can read {what} {path}", hint=f"chmod 600 {path}")
        elif owners is not None and status.st_uid not in owners:
            yield ConfigError(
                f"{what} {path} belongs to another user, who can change it", hint=f"chown root {path}"
            )
        elif status.st_mode & _OTHERS_WRITE:
            yield ConfigError(f"other users can change {what} {path}", hint=f"chmod go-w {path}")


def _is_credential(path: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.is_relative_to(folder)
