"""Remembers the last CRL of each operator CA, so that an older one is never believed again.

The file is the daemon's own, so each replica has one. Daemons that share it share what they know.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from otahsm.errors import ConfigError
from otahsm.pki.crls.clients import ClientCrl
from otahsm.system.durable import make_folder, open_beside, replace_file


class _Last(NamedTuple):
    """The last CRL of a CA and scope: its number, if it had one, and its thisUpdate (seconds since 1970)."""

    number: int | None
    this_update: int


class CrlMemory:
    """What is remembered of CRLs.

    Args:
        path: the file; made when it is first written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, crls: Sequence[ClientCrl], name: str) -> None:
        """Check that no CRL is older than the last one of its CA and scope.

        Args:
            crls: the CRLs.
            name: their file, for errors.

        Raises:
            ConfigError: one is, or the file of the last ones can't be read.
        """
        known = self._read()
        for crl in crls:
            last, new = known.get(_key(crl)), _last(crl)
            if last is None:
                continue
            if last.number is not None and (new.number is None or new.number < last.number):
                told = "has no CRL number" if new.number is None else f"has the CRL number {new.number}"
                raise self._older(f"the CRL {name} {told}, and {last.number} was seen: it is an older one")
            if new.this_update < last.this_update:
                raise self._older(
                    f"the CRL {name} is of {_show(new.this_update)}, and one of {_show(last.this_update)} was"
                    " seen: it is an older one"
                )

    def note(self, crls: Sequence[ClientCrl]) -> None:
        """Remember CRLs, durably.

        Raises:
            ConfigError: the file can't be read or written.
        """
        if not crls:
            return
        try:
            make_folder(self._path.parent, 0o700)
            lock = open_beside(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                known = dict(self._read())
                for crl in crls:
                    last, new = known.get(_key(crl)), _last(crl)
                    if last is None or new.this_update >= last.this_update:
                        known[_key(crl)] = new
                if known != self._read():
                    content = json.dumps({key: last._asdict() for key, last in known.items()}, indent=1)
                    replace_file(self._path, content.encode(), 0o600)
            finally:
                os.close(lock)
        except OSError as error:
            raise ConfigError(
                f"can't remember the CRLs of [access] client_crls in {self._path}: {error.strerror}",
                hint="Let the daemon write there, or name another file in [access] client_crls_seen.",
            ) from None

    def _read(self) -> Mapping[str, _Last]:
        try:
            entries = json.loads(self._path.read_bytes())
            known = {key: _Last(**entry) for key, entry in entries.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unreadable(error.strerror) from None
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise self._unreadable("it is damaged") from None
        if any(
            type(last.this_update) is not int or type(last.number) not in {int, type(None)}
            for last in known.values()
        ):
            raise self._unreadable("it is damaged")
        return known

    def _unreadable(self, why: str | None) -> ConfigError:
        return ConfigError(
            f"can't read which CRLs were seen last, in {self._path}: {why}",
            hint=f"Get the newest CRLs from the operator CA, then remove {self._path}.",
        )

    def _older(self, message: str) -> ConfigError:
        return ConfigError(
            message,
            hint="Fetch the newest one from the operator CA. If that CA began anew, with lower numbers,"
            f" remove {self._path}.",
        )


def _key(crl: ClientCrl) -> str:
    return f"{crl.issuer} {crl.scope}".strip()


def _last(crl: ClientCrl) -> _Last:
    return _Last(crl.number, int(crl.crl.last_update_utc.timestamp()))


def _show(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
