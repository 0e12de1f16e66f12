"""Checks that other users can't change files that the daemon trusts, or read its secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from otahsm.errors import ConfigError
from otahsm.system.trusted_files import TrustedFiles, files_of_anyone, own_files


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
    for problem in _problems(files, own_files()):
        raise problem


def check_modes(files: Iterable[GuardedFile]) -> None:
    """Refuse files as `check_file_modes`, whoever owns them: for a client, whose files others may keep.

    Raises:
        ConfigError: the first problem.
    """
    for problem in _problems(files, TrustedFiles(None)):
        raise problem


def find_open_files(files: Iterable[GuardedFile]) -> Iterator[ConfigError]:
    """Yield the problems with modes and owners of files, of their folders, and of links to them.

    The rules are those of `otahsm.system.trusted_files`. If this is root, it may be checking the daemon of
    another user, whose files it can't recognise; then owners are not checked. Missing files are not checked.
    """
    yield from _problems(files, files_of_anyone())


def find_unseen_files(files: Iterable[GuardedFile]) -> Iterator[GuardedFile]:
    """Yield the files that this user can't look at."""
    for file in files:
        try:
            files_of_anyone().check(file.path, file.what)
        except PermissionError:
            yield file
        except (OSError, ConfigError):  # reported elsewhere
            continue


def _problems(files: Iterable[GuardedFile], by: TrustedFiles) -> Iterator[ConfigError]:
    for what, path, secret in files:
        try:
            by.check(path, f"{what} {path}", secret=secret)
        except ConfigError as problem:
            yield problem
        except OSError:  # reported when the file is read
            continue
