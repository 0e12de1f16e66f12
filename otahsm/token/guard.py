"""The guard that never lets a wrong PIN be tried twice (I7).

HSMs lock after 3 to 10 wrong PINs, and a supervisor that restarts a daemon burns them in a minute. So
every login of every process of one installation goes through one guard directory:

- a lock file makes logins wait for each other (several at once fail on SoftHSM, besides);
- before C_Login the guard writes down that a try is under way, and forgets it when the token answers;
- when the token refuses the PIN, the guard remembers that, and from then on nobody tries again until an
  operator removes the note;
- an attempt without an answer (a crash, a hang that was killed) may be repeated once.

A key that wants the PIN for every signature (CKA_ALWAYS_AUTHENTICATE) is logged in to under the same lock,
after the same look at the note: a PIN that was changed meanwhile costs one try, not one for each session.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn

from otahsm.errors import ConfigError, OtahsmError, PinRefusedError
from otahsm.system.clock import rfc3339, utc_now
from otahsm.system.durable import make_folder, open_beside, replace_file
from otahsm.system.owners import check_owner
from otahsm.system.spool import LOGIN, LOGIN_REFUSED, write_if_possible
from otahsm.templates import counted

_LOCK: Final = "login.lock"
_NOTE: Final = "login.json"
_TRIES_WITHOUT_ANSWER: Final = 2


class _Note(NamedTuple):
    """What the guard remembers between logins; without one, all is well."""

    state: Literal["trying", "refused"]
    at: str
    tries: int = 0
    message: str = ""


class LoginGuard:
    """One installation's guard.

    Args:
        directory: where it keeps its lock and its note; made if it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._note = directory / _NOTE

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Wait for the other processes of this installation, and keep them waiting.

        Raises:
            ConfigError: the guard directory can't be used, or this is root and it is another user's.
        """
        check_owner(self._directory)
        try:
            make_folder(self._directory, 0o700)
            lock = open_beside(self._directory / _LOCK, os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise ConfigError(f"can't use [token] guard_dir {self._directory}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def one_try(self) -> Iterator[None]:
        """Wrap one C_Login, under `lock`; the block raises PinRefusedError if the token refused the PIN.

        Raises:
            PinRefusedError: this try was refused, or an earlier one, or too many never got an answer.
            ConfigError: the guard directory can't be written.
        """
        tries = self._check_earlier_tries()
        self._write(_Note(state="trying", tries=tries + 1, at=_now()))
        try:
            yield
        except PinRefusedError as error:
            self._refuse(error)
        except OtahsmError:
            self._note.unlink()  # the token answered, and not about the PIN
            raise
        self._note.unlink()
        write_if_possible(self._directory, LOGIN, {})

    @contextlib.contextmanager
    def another_try(self) -> Iterator[None]:
        """Wrap one further C_Login with a PIN that the token has taken before; waits for the lock.

        Raises:
            PinRefusedError: this try was refused, or an earlier one.
            ConfigError: as `lock`.
        """
        with self.lock():
            self._check_earlier_tries()
            try:
                yield
            except PinRefusedError as error:
                self._refuse(error)

    def _check_earlier_tries(self) -> int:
        try:
            note = _decode(self._note.read_bytes())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, TypeError, RecursionError):
            note = _Note(state="refused", message=f"can't read {self._note}", at="an unknown time")
        if note.state == "trying" and note.tries < _TRIES_WITHOUT_ANSWER:
            return note.tries
        why = note.message or f"{counted(note.tries, 'login')} got no response"
        raise PinRefusedError(f"login is blocked: {why} (at {note.at})", hint=self._hint())

    def _refuse(self, error: PinRefusedError) -> NoReturn:
        write_if_possible(self._directory, LOGIN_REFUSED, {"message": error.message})
        self._write(_Note(state="refused", message=error.message, at=_now()))
        raise PinRefusedError(error.message, hint=self._hint()) from None

    def _hint(self) -> str:
        return (
            "Another wrong PIN might lock the token. Make sure that pin-source yields the right PIN, check"
            f" the token's remaining tries, then remove {self._note} and start again."
        )

    def _write(self, note: _Note) -> None:
        """Write the note durably: it must be there after a power cut in the middle of a login."""
        try:
            replace_file(self._note, json.dumps(note._asdict()).encode())
        except OSError as error:
            raise ConfigError(
                f"can't write to [token] guard_dir {self._directory}: {error.strerror}; no login is attempted"
                " without it"
            ) from None


def _decode(content: bytes) -> _Note:
    """Read a note. Raises ValueError, TypeError or RecursionError if it is not one that the guard wrote."""
    note = _Note(**json.loads(content))
    if [type(value) for value in note] != [str, str, int, str] or note.state not in {"trying", "refused"}:
        raise ValueError("not a note")
    return note


def _now() -> str:
    return rfc3339(utc_now().replace(microsecond=0))
