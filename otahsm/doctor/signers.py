"""Checks what signers have written down, and what they know."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from otahsm.checks import Check, fail, failed, ok, warning
from otahsm.config import Config, TokenConfig, section
from otahsm.errors import ConfigError, EvidenceError, OtahsmError
from otahsm.ledger import check_that_it_grew, read_head, snapshot
from otahsm.templates import counted
from otahsm.token.configured import folder_of, mandate_of
from otahsm.token.desk.beginning import known_here, missing
from otahsm.token.desk.codec import LastCheckpoint
from otahsm.token.desk.journal_reading import refusals_in

_SUBJECT: Final = "signers' journal"
_MEMORY: Final = "signers' memory"
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


def examine_memory(config: Config) -> Iterator[Check]:
    """Check that the signers of this machine know what they must continue, and that the ledger does."""
    try:
        mandate = mandate_of(config)
        here = known_here(mandate)
    except OtahsmError as error:
        yield warning(_MEMORY, f"it was not checked: {error.message}", error.hint)
        return
    new = missing(mandate, here)
    if new.checkpoints or new.crls:
        unknown = [
            *(["the log"] if new.checkpoints else []),
            *([counted(len(new.crls), "CA")] if new.crls else []),
        ]
        yield fail(
            _MEMORY,
            f"the signers of this machine don't know what was signed last of {' and '.join(unknown)}: they"
            " sign neither its CRLs nor its checkpoints",
            "Run `otahsm ledger join` as root, or, if the ledger is new, `otahsm ledger init-key`.",
        )
        return
    for last in here.checkpoints.values():
        yield _compare(config, last)
    if not here.checkpoints:
        yield ok(_MEMORY, "it was begun; there is no [checkpoint] to compare with the ledger")


def _compare(config: Config, last: LastCheckpoint) -> Check:
    """Compare the last checkpoint with the ledger."""
    leaves = counted(last.size, "leaf", "leaves")
    known = f"the last checkpoint that the signers of this machine know has {leaves}"
    try:
        with snapshot(section(config.ledger, "ledger")) as connection:
            head = read_head(connection)
            if head is None:
                raise EvidenceError("The state of its tree is corrupt.")  # noqa: TRY301
            check_that_it_grew(connection, head, last.size, last.root)
    except EvidenceError as error:
        return fail(
            _MEMORY,
            f"{known}, and the ledger does not continue it: {error.message}",
            "It was changed, or an older copy was restored. If you restored it yourself, run `otahsm ledger"
            " accept`. If not, keep the ledger as it is, and run `otahsm ledger verify`.",
        )
    except OtahsmError as error:
        return warning(_MEMORY, f"{known}; it was not compared: {error.message}", error.hint)
    if head.size is not None and head.size > last.size:
        return ok(_MEMORY, f"{known}; the ledger continues it, to one of {head.size:,} by another machine")
    return ok(_MEMORY, f"{known}, and the ledger continues it")
