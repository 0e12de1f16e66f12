"""A spool of audit events (logins, ceremonies) from processes that have no ledger, for the daemon.

It is `events/` in a token's guard_dir, which every process that logs in can write. The daemon writes the
events to the ledger's log within seconds, or when it starts. Files that are not events are moved to
`events/unreadable/`, for an operator to inspect. Whose an event is, is what the file's owner says.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import pwd
import stat
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from heapq import nsmallest
from pathlib import Path
from typing import Any, Final, NamedTuple

from otahsm.system.durable import create_file

LOGIN: Final = "token.login"
LOGIN_REFUSED: Final = "token.login_refused"
CEREMONY: Final = "ceremony"
_NAMES: Final = (LOGIN, LOGIN_REFUSED, CEREMONY)  # all others are the daemon's own

FOLDER: Final = "events"
UNREADABLE: Final = "unreadable"

AT_ONCE: Final = 256

_SUFFIX: Final = ".json"
_MAX_BYTES: Final = 64 * 1024
_MAX_NAME: Final = 64
_MAX_CLIENT: Final = 256
_MAX_DETAILS: Final = 64
_MAX_DETAIL: Final = 4096
_END_OF_TIME: Final = 253_402_300_800_000_000  # the year 10000, in microseconds since the Unix epoch
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no links, no blocking on FIFOs
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Errors caused by the file itself, not by the machine: no permission, a link, a socket.
_OF_THE_FILE: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.EISDIR})


class SpooledEvent(NamedTuple):
    """A spooled event: its file, its time (microseconds since the Unix epoch), name, client and details."""

    path: Path
    at: int
    name: str
    client: str
    details: Mapping[str, str]


class NotAnEvent(NamedTuple):
    """A file that is not an event, and why."""

    path: Path
    why: str


class Unread(NamedTuple):
    """A file that can't be read now, because of an error of the machine."""

    path: Path
    error: OSError


def write(guard_dir: Path, name: str, details: Mapping[str, str]) -> None:
    """Spool an event for the daemon. Raises OSError."""
    folder = guard_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    now = time.time_ns()
    command = " ".join(Path(sys.argv[0]).name.split() + sys.argv[1:2])
    details = {"command": command, "pid": str(os.getpid()), **details}
    event = {
        "at": now // 1000,
        "name": name,
        "client": f"host:{host_user()}"[:_MAX_CLIENT],  # for older daemons, which believe it
        "details": {key: storable(str(value))[:_MAX_DETAIL] for key, value in details.items()},
    }
    create_file(folder / f"{now}-{os.getpid()}{_SUFFIX}", json.dumps(event).encode())


def write_if_possible(guard_dir: Path, name: str, details: Mapping[str, str]) -> None:
    """Spool an event; ignore errors, since they must not stop what it is about."""
    with contextlib.suppress(OSError):
        write(guard_dir, name, details)


@contextlib.contextmanager
def reserved(guard_dir: Path) -> Iterator[bool]:
    """Keep other processes from reading a spool meanwhile; yields False if one does, or there is no spool.

    Two that read the same file at the same time would both record its event.

    Args:
        guard_dir: the token's.

    Raises:
        OSError: the folder can't be opened.
    """
    with _opened(guard_dir / FOLDER) as folder:
        yield folder is not None and _locked(folder)


def _locked(folder: int) -> bool:
    """Lock a folder until its descriptor is closed; return whether no other process has."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # its file system can't lock folders
        return True
    return True


def read(guard_dir: Path, passing_over: Collection[Path] = ()) -> list[SpooledEvent | NotAnEvent | Unread]:
    """Return at most `AT_ONCE` spooled files, the oldest first; the caller deletes those it has processed.

    Args:
        guard_dir: the guard folder of the token; it need not exist.
        passing_over: files to ignore.

    Raises:
        OSError: the folder can't be read.
    """
    with _opened(guard_dir / FOLDER) as folder:
        if folder is None:
            return []
        names = set(os.listdir(folder))  # noqa: PTH208 - of the folder that is open
        names -= {path.name for path in passing_over if path.parent == guard_dir / FOLDER}
        ours = (name for name in names if name.endswith(_SUFFIX) and name[0] != ".")
        found = [_read(folder, guard_dir / FOLDER / name) for name in nsmallest(AT_ONCE, ours)]
    return [item for item in found if item is not None]


def set_aside(path: Path) -> None:
    """Move a file that is not an event to `aside`. Raises OSError."""
    with _opened(path.parent) as folder:
        with contextlib.suppress(FileExistsError):
            os.mkdir(UNREADABLE, mode=0o700, dir_fd=folder)
        # Don't follow a link, which could move files anywhere.
        target = os.open(UNREADABLE, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.rename(path.name, path.name, src_dir_fd=folder, dst_dir_fd=target)
        finally:
            os.close(target)


def aside(path: Path) -> Path:
    """Return where `set_aside` moves a file to."""
    return path.parent / UNREADABLE / path.name


def storable(text: str) -> str:
    """Return a text that every database accepts: NUL and lone surrogates are escaped."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """Open a folder; yields its descriptor, or None if it does not exist."""
    try:
        descriptor = os.open(folder, _OPEN_FOLDER)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(folder: int, path: Path) -> SpooledEvent | NotAnEvent | Unread | None:
    try:
        descriptor = os.open(path.name, _READ, dir_fd=folder)
    except FileNotFoundError:  # another process has taken it
        return None
    except OSError as error:
        at_fault = error.errno in _OF_THE_FILE
        return NotAnEvent(path, f"can't open it: {error.strerror}") if at_fault else Unread(path, error)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return NotAnEvent(path, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        return Unread(path, error)
    finally:
        os.close(descriptor)
    try:
        return _parse(path, content, f"host:{_name_of(status.st_uid)}")
    except ValueError as error:
        return NotAnEvent(path, str(error))


def _parse(path: Path, content: bytes, client: str) -> SpooledEvent:
    """Parse an event that `write` wrote, as a user of this machine. Raises ValueError."""
    if len(content) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    try:
        event: Any = json.loads(content)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - bad content, not a wrong argument type
    at, details = event.get("at"), event.get("details")
    if type(at) is not int or not 0 <= at < _END_OF_TIME:
        raise ValueError("at: not a number of microseconds from the years 1970 to 9999")
    if not isinstance(details, dict) or len(details) > _MAX_DETAILS:
        raise ValueError(f"details: not an object of at most {_MAX_DETAILS} members")
    if (name := event.get("name")) not in _NAMES:
        raise ValueError(f"name: not one of {', '.join(_NAMES)}")
    return SpooledEvent(
        path,
        at,
        name,
        client,
        {
            _text("details", key, _MAX_NAME): _text("details", value, _MAX_DETAIL, least=0)
            for key, value in details.items()
        },
    )


def _text(field: str, value: object, most: int, least: int = 1) -> str:
    if not isinstance(value, str) or not least <= len(value) <= most or storable(value) != value:
        raise ValueError(f"{field}: not a text of {least} to {most} characters")
    return value


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def host_user() -> str:
    """Return the name of this process's user, or its number if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return str(os.getuid())
