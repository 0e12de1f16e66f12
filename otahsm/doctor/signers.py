"""Checks what signers have written down."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from otahsm.checks import Check, failed, ok, warning
from otahsm.config import TokenConfig
from otahsm.errors import ConfigError
from otahsm.templates import counted
from otahsm.token.configured import folder_of
from otahsm.token.desk.journal_reading import refusals_in

_SUBJECT: Final = "signers' journal"
_DAYS: Final = 30


def examine_signers(token: TokenConfig, now: datetime) -> Iterator[Check]:
    """Look for refusals of the last month in the signers' journal."""
    folder = folder_of(token)
    try:
        if not folder.exists():
            yield ok(_SUBJECT, f"no signer has signed anything on this machine yet: there is no {folder}")
            return
    except PermissionError:
        yield warning(
            _SUBJECT,
            f"this user can't look into {folder}: it was not checked",
            "Run this as root, or as the signers' user.",
        )
        return
    try:
        refused, last = refusals_in(folder, now - timedelta(days=_DAYS))
    except ConfigError as error:
        yield failed(_SUBJECT, error)
        return
    if refused:
        yield warning(
            _SUBJECT,
            f"signers refused {counted(refused, 'request')}; the last: {last}",
            "Compare the clocks and the configurations of daemon and signers. If they are the same, find out"
            " who asked: `otahsm audit --event signing.refused`, and `otahsm ledger verify --journal`.",
        )
        return
    yield ok(_SUBJECT, f"no refusals in {_DAYS} days; `otahsm ledger verify --journal` reads all of it")
