"""Remembers the last CRL of each operator CA, so that an older one is never believed again, nor none.

The file is the daemon's own, so each replica has one. Daemons that share it share what they know.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from otahsm.errors import ConfigError
from otahsm.pki.crls.clients import ClientCrl, key_digest
from otahsm.system.durable import make_folder, open_beside, replace_file
from otahsm.system.trusted_files import TrustedFiles


class _Last(NamedTuple):
    """The last CRL of a CA and scope: its number, if it had one, and its thisUpdate (seconds since 1970)."""

    number: int | None
    this_update: int


class CrlMemory:
    """What is remembered of CRLs.

    Args:
        path: the file; made when it is first written.
        files: what reads it.
    """

    def __init__(self, path: Path, files: TrustedFiles) -> None:
        self._path = path
        self._files = files

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
            last, new = known.get(key_of(crl)), _last(crl)
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

    def lost(
        self, crls: Sequence[ClientCrl], authorities: Sequence[x509.Certificate]
    ) -> Mapping[str, ConfigError]:
        """Return the CRLs that were seen, and in whose place there is none: by `key_of`, and the error.

        A complete CRL takes the place of those of the same CA that are not newer.

        Args:
            crls: those that there are now.
            authorities: the operator CAs; CRLs of others don't count.

        Raises:
            ConfigError: the file of the last ones can't be read.
        """
        names = {key_digest(authority): authority.subject.rfc4514_string() for authority in authorities}
        there = {key_of(crl) for crl in crls}
        complete = {crl.issuer: _last(crl).this_update for crl in crls if key_of(crl) == crl.issuer}
        lost = {}
        for key, last in self._read().items():
            issuer, _, scope = key.partition(" ")
            if issuer in names and key not in there and complete.get(issuer, -1) < last.this_update:
                lost[key] = self._lost(f"{names[issuer]} {scope}".strip())
        return lost

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
                    last, new = known.get(key_of(crl)), _last(crl)
                    if last is None or new.this_update >= last.this_update:
                        known[key_of(crl)] = new
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
            self._path.lstat()
        except FileNotFoundError:
            self._check_folder()
            return {}
        except OSError as error:
            raise self._unreadable(error.strerror) from None
        content = self._files.read(self._path, f"[access] client_crls_seen {self._path}")
        try:
            known = {key: _Last(**entry) for key, entry in json.loads(content).items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise self._unreadable("it is damaged") from None
        if any(
            type(last.this_update) is not int or type(last.number) not in {int, type(None)}
            for last in known.values()
        ):
            raise self._unreadable("it is damaged")
        return known

    def _check_folder(self) -> None:
        """Check that nobody else can have removed the file. Raises ConfigError."""
        with contextlib.suppress(OSError):  # it is made, or that fails
            self._files.check(
                self._path.parent, f"the folder {self._path.parent} of [access] client_crls_seen"
            )

    def _lost(self, name: str) -> ConfigError:
        return ConfigError(
            f"no file of [access] client_crls has the CRL of {name} any more, which was seen before",
            hint="Put it back: certificates that it revoked would be accepted again. If that CA makes it no"
            f" more, remove {self._path}.",
        )

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


def key_of(crl: ClientCrl) -> str:
    """Return what tells CRLs apart: their CA, and what they are limited to, if they are."""
    return " ".join(filter(None, (crl.issuer, crl.scope, "(no CAs)" if crl.only_leaves else "")))


def _last(crl: ClientCrl) -> _Last:
    return _Last(crl.number, int(crl.crl.last_update_utc.timestamp()))


def _show(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
