"""Has the signers of a machine forget what they signed last, on an operator's word."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NamedTuple

from otahsm.errors import ConfigError
from otahsm.system.clock import rfc3339, utc_now
from otahsm.token.desk.journal import Journal, one_line
from otahsm.token.desk.memory import FOLDER, Memory


class Forgotten(NamedTuple):
    """How many scopes and logs were forgotten, and where their files are now; None if there were none."""

    crls: int
    checkpoints: int
    kept: Path | None


def forget(folder: Path, reason: str) -> Forgotten:
    """Forget what was signed last, but for the numbers of CRLs: the next ones need not continue it.

    Args:
        folder: of the signers.
        reason: for the journal.

    Raises:
        ConfigError: no signer has run here, this is not their user, or there is no reason.
        TokenUnavailableError: the folder can't be written.
    """
    if not reason.strip():
        raise ConfigError("the reason is empty", hint="Say why: it is kept in the signers' journal.")
    _check_user(folder)
    journal, memory = Journal(folder), Memory(folder)
    now = utc_now()
    with memory.locked():
        journal.append([f"accepted {rfc3339(now)} {one_line(reason)}"])
        journal.flush()
        kept = folder / f"{FOLDER}-until-{now:%Y%m%dT%H%M%S.%fZ}"
        crls, checkpoints = memory.forget(kept)
    return Forgotten(crls, checkpoints, kept if crls or checkpoints else None)


def _check_user(folder: Path) -> None:
    try:
        owner = folder.stat().st_uid
    except OSError as error:
        raise ConfigError(
            f"can't read {folder}: {error.strerror}",
            hint="No signer has signed anything on this machine, or this is not the signers' user.",
        ) from None
    if owner != os.geteuid():
        raise ConfigError(
            f"{folder} belongs to the user {_name(owner)}",
            hint=f"Run this as the signers' user: sudo -u {_name(owner)} otahsm ledger accept ...",
        )


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
