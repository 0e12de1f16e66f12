"""The outbox: certificates to register, in the state file of a devices folder, with the claims on them.

A command claims the registrations that it sends: no other sends them until the claim expires or the command
ends. A killed command has ended too, since its lock is gone. So its claims are sent again at once: delivery
is at least once.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Self

from otahsm.errors import FolderError
from otahsm.line.run_state import RunState
from otahsm.registration.backends import Registration
from otahsm.system.clock import from_microseconds
from otahsm.system.durable import open_beside

State = Literal["waiting", "done", "failed"]

_LOCK: Final = ".register.lock"
_PAGE: Final = 1024
_TRIES: Final = 3  # connecting, and two requests
_SLACK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class TryOutcome:
    """The outcome of an attempt.

    Attributes:
        registration: the registration.
        state: its new state; None if the attempt doesn't count.
        answer: the backend's answer, human-readable.
        seconds: the time until the next attempt, if it is waiting.
    """

    registration: Registration
    state: State | None
    answer: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Registered:
    """The state of a registration.

    Attributes:
        device_id: the device id.
        serial: the certificate's serial number in hexadecimal.
        state: "waiting", "done" or "failed".
        attempts: the number of attempts.
        answer: the backend's last answer, human-readable; empty if there is none.
        answered_at: the time of that answer.
        due_at: the time of the next attempt, if it is waiting.
    """

    device_id: str
    serial: str
    state: State
    attempts: int
    answer: str
    answered_at: datetime | None
    due_at: datetime | None

    @classmethod
    def of(cls, row: sqlite3.Row) -> Self:
        """Return the state of a row."""
        return cls(
            row["device_id"],
            row["serial"],
            row["state"],
            row["attempts"],
            row["answer"] or "",
            _when(row["answered_at"]),
            _when(row["due_at"]) if row["state"] == "waiting" else None,
        )


class Outbox:
    """The outbox of a devices folder. Use it in a `with` block to claim registrations.

    Args:
        folder: the devices folder; it must exist.
        try_seconds: how long an attempt may take.

    Raises:
        FolderError: the folder or its state file can't be used.
    """

    def __init__(self, folder: Path, try_seconds: float = 0.0) -> None:
        if not folder.is_dir():
            raise FolderError(
                f"{folder} is not a folder",
                hint="Give the devices folder with --devices, or issue devices first.",
            )
        self.folder = folder
        self.book = RunState(folder)
        self._claim = _microseconds(_TRIES * try_seconds + _SLACK_SECONDS)
        self._lock = -1

    def close(self) -> None:
        """Close the state file."""
        self.book.close()

    def __enter__(self) -> Self:
        """Lock the outbox; if no other command is running, release all claims."""
        try:
            self._lock = open_beside(self.folder / _LOCK, os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                with self.book.transaction() as connection:
                    connection.execute(
                        "UPDATE registrations SET claimed = 0, due_at = ? WHERE claimed", (_now(),)
                    )
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except OSError as error:
            raise FolderError(f"can't use {self.folder / _LOCK}: {error.strerror}") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        os.close(self._lock)

    def claim(self, count: int) -> list[Registration]:
        """Claim at most `count` registrations that are due. Raises FolderError."""
        now = _now()
        with self.book.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM registrations WHERE state = 'waiting' AND due_at <= ?"
                " ORDER BY due_at, id LIMIT ?",
                (now, count),
            ).fetchall()
            connection.executemany(
                "UPDATE registrations SET claimed = 1, due_at = ? WHERE id = ?",
                [(now + self._claim, row["id"]) for row in rows],
            )
        return [
            Registration(
                row["id"],
                row["device_id"],
                row["serial"],
                row["profile"],
                json.loads(row["attributes"]),
                row["certificate"],
                row["attempts"],
            )
            for row in rows
        ]

    def release(self, numbers: Iterable[int]) -> None:
        """Release claims on registrations that were not sent. Raises FolderError."""
        with self.book.transaction() as connection:
            connection.executemany(
                "UPDATE registrations SET claimed = 0, due_at = ? WHERE id = ? AND claimed",
                [(_now(), number) for number in numbers],
            )

    def settle(self, outcomes: Sequence[TryOutcome]) -> list[Registered]:
        """Record the outcomes of attempts durably; return the state of each that counts.

        A registration that is done stays done, whatever another command records. Its certificate is deleted.

        Raises:
            FolderError: the state file can't be written.
        """
        if not outcomes:
            return []
        now = _now()
        self.release(outcome.registration.number for outcome in outcomes if outcome.state is None)
        settled = [outcome for outcome in outcomes if outcome.state is not None]
        with self.book.transaction(durable=True) as connection:
            rows = []
            for outcome in settled:
                number = outcome.registration.number
                connection.execute(
                    "UPDATE registrations SET state = ?, attempts = attempts + 1, claimed = 0, due_at = ?,"
                    " answered_at = ?, answer = ?,"
                    " certificate = CASE ? WHEN 'done' THEN NULL ELSE certificate END"
                    " WHERE id = ? AND state <> 'done'",
                    (
                        outcome.state,
                        now + _microseconds(outcome.seconds),
                        now,
                        outcome.answer,
                        outcome.state,
                        number,
                    ),
                )
                rows += connection.execute("SELECT * FROM registrations WHERE id = ?", (number,)).fetchall()
        return [Registered.of(row) for row in rows]

    def due_in(self) -> tuple[float | None, bool]:
        """Return the seconds until a registration is due, and whether there are claims.

        The seconds are None if none is waiting. Raises FolderError.
        """
        ((due_at, claimed),) = self.book.read(
            "SELECT min(due_at), max(claimed) FROM registrations WHERE state = 'waiting'"
        )
        return None if due_at is None else (due_at - _now()) / 1_000_000, bool(claimed)

    def retry_failed(self) -> None:
        """Make failed registrations wait again, due now. Raises FolderError."""
        with self.book.transaction(durable=True) as connection:
            connection.execute(
                "UPDATE registrations SET state = 'waiting', due_at = ? WHERE state = 'failed'", (_now(),)
            )

    def counts(self) -> Mapping[State, int]:
        """Return the number of registrations by state. Raises FolderError."""
        counts: dict[State, int] = {"waiting": 0, "done": 0, "failed": 0}
        for row in self.book.read("SELECT state, count(*) AS n FROM registrations GROUP BY state"):
            counts[row["state"]] = row["n"]
        return counts

    def all(self) -> Iterator[Registered]:
        """Yield the states of all registrations, the oldest first. Raises FolderError."""
        last = 0
        while rows := self.book.read(
            "SELECT * FROM registrations WHERE id > ? ORDER BY id LIMIT ?", last, _PAGE
        ):
            last = rows[-1]["id"]
            for row in rows:
                yield Registered.of(row)


def _when(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)


def _now() -> int:
    return time.time_ns() // 1000
