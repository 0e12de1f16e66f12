"""Events of processes that have no ledger: logins, ceremonies. They leave them in a folder for the daemon.

It is `events/` in a token's guard_dir, which every process that logs in can write. The daemon writes them
into the ledger's log within seconds, or when it starts.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from otahsm.system.durable import create_file

LOGIN: Final = "token.login"
LOGIN_REFUSED: Final = "token.login_refused"
CEREMONY: Final = "ceremony"

_FOLDER: Final = "events"
_AT_ONCE: Final = 256
_MAX_BYTES: Final = 64 * 1024


class SpooledEvent(NamedTuple):
    """An event that was left: its file, when it happened (microseconds), what, whose doing, and the rest."""

    path: Path
    at: int
    name: str
    client: str
    details: Mapping[str, str]


def write(guard_dir: Path, name: str, details: Mapping[str, str]) -> None:
    """Leave an event for the daemon. Raises OSError."""
    folder = guard_dir / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    now = time.time_ns()
    command = " ".join(Path(sys.argv[0]).name.split() + sys.argv[1:2])
    event = {
        "at": now // 1000,
        "name": name,
        "client": f"host:{_user()}",
        "details": {"command": command, "pid": str(os.getpid()), **details},
    }
    create_file(folder / f"{now}-{os.getpid()}.json", json.dumps(event).encode())


def write_if_possible(guard_dir: Path, name: str, details: Mapping[str, str]) -> None:
    """Leave an event; if that fails, what it tells of goes on all the same."""
    with contextlib.suppress(OSError):
        write(guard_dir, name, details)


def read(guard_dir: Path) -> Iterator[SpooledEvent]:
    """Yield some of what was left, the oldest first; who has written it down removes its file.

    What is no event is named so: nothing that somebody left goes unseen.
    """
    try:
        paths = sorted((guard_dir / _FOLDER).glob("*.json"))
    except OSError:
        return
    for path in paths[:_AT_ONCE]:
        with contextlib.suppress(OSError), path.open("rb") as file:
            yield _read(path, file.read(_MAX_BYTES))


def _read(path: Path, content: bytes) -> SpooledEvent:
    try:
        event: dict[str, Any] = json.loads(content)
        details = {str(name): str(value) for name, value in event["details"].items()}
        return SpooledEvent(
            path, int(event["at"]), str(event["name"])[:64], str(event["client"])[:256], details
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return SpooledEvent(path, time.time_ns() // 1000, "inbox.unreadable", "daemon", {"file": path.name})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return str(os.getuid())
