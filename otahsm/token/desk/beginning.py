"""How the signers of a machine begin to know what was signed last: by an operator's word alone."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.errors import ConfigError, LedgerTamperedError
from otahsm.system.clock import rfc3339, utc_now
from otahsm.templates import counted
from otahsm.token.desk.codec import NO_CHECKPOINT, CrlToSign, LastCheckpoint, split_entries
from otahsm.token.desk.journal import Journal, one_line
from otahsm.token.desk.memory import FOLDER, Known, Memory, at_least
from otahsm.token.setup import Mandate

_DECIDED: Final = (
    "If you restored an older copy yourself, run `otahsm ledger accept`. If not, keep the ledger as it is."
)


class Replaced(NamedTuple):
    """How many CRLs and checkpoints were known, and where their files are now; None if there were none."""

    crls: int
    checkpoints: int
    kept: Path | None


def known_here(mandate: Mandate) -> Known:
    """Return what the signers of this machine know.

    Raises:
        ConfigError: this user can't read it.
        SigningRefusedError: it is damaged.
    """
    check_user(mandate.folder)
    return _known(Memory(mandate.folder), mandate)


def missing(mandate: Mandate, known: Known) -> Known:
    """Return the logs and CAs of a mandate of which nothing is known, with nothing signed by them."""
    vkeys, issuers = _subjects(mandate)
    return Known(
        {vkey: NO_CHECKPOINT for vkey in vkeys if vkey not in known.checkpoints},
        {issuer: () for issuer in issuers if issuer not in known.crls},
    )


def begin(mandate: Mandate) -> Known:
    """Begin what was not begun, as new: nothing has been signed that must be continued.

    Returns:
        What was begun.

    Raises:
        ConfigError: this user can't write it.
        TokenUnavailableError: the folder can't be written.
    """
    with _writing(mandate.folder) as (memory, journal):
        new = missing(mandate, _known(memory, mandate))
        if new.checkpoints or new.crls:
            _write(journal, "begun", f"as new: {_summary(new)}")
            memory.begin(new, f"as new, {rfc3339(utc_now())}")
    return new


def merge(here: Known, ledgers: Known, check_that_it_grew: Callable[[LastCheckpoint], None]) -> Known:
    """Return what a machine is to know that joins a ledger: the newest of both.

    Args:
        here: what is known on the machine, or was kept elsewhere.
        ledgers: what the ledger has.
        check_that_it_grew: raises LedgerTamperedError if the ledger's tree does not continue a checkpoint.

    Raises:
        LedgerTamperedError: the ledger does not continue what is known, or is older.
    """
    checkpoints = dict(ledgers.checkpoints)
    for vkey, last in here.checkpoints.items():
        check_that_it_grew(last)
        checkpoints[vkey] = max(last, checkpoints.get(vkey, last), key=lambda each: each.size)
    crls = {issuer: {crl.scope: crl for crl in each} for issuer, each in ledgers.crls.items()}
    for issuer, each in here.crls.items():
        for crl in each:
            mine = crls.setdefault(issuer, {})
            mine[crl.scope] = _newer(crl, mine.get(crl.scope))
    return Known(checkpoints, {issuer: tuple(each.values()) for issuer, each in crls.items()})


def join(mandate: Mandate, known: Known, before: Known, what: str) -> None:
    """Have the signers of this machine go on from what is known, as the ledger has it.

    Args:
        mandate: what they sign.
        known: from `merge`.
        before: what they knew when that was made.
        what: what they join, for their journal.

    Raises:
        ConfigError: they have signed meanwhile, or this user can't write it.
        TokenUnavailableError: the folder can't be written.
    """
    with _writing(mandate.folder) as (memory, journal):
        if _known(memory, mandate) != before:
            raise ConfigError(
                "the signers of this machine have signed meanwhile; nothing was changed",
                hint="Run the command again; stop the daemon first, if that happens again.",
            )
        _write(journal, "joined", what)
        memory.begin(known, f"{what}, {rfc3339(utc_now())}")


def accept(mandate: Mandate, known: Known, what: str, reason: str) -> Replaced:
    """Have the signers of this machine go on from the ledger as it is, though it may be older.

    What they knew is kept in a folder beside it. Numbers of CRLs never go back.

    Args:
        mandate: what they sign.
        known: what the ledger has.
        what: what they join, for their journal.
        reason: why, for their journal.

    Raises:
        ConfigError: this user can't write it, or there is no reason.
        TokenUnavailableError: the folder can't be written.
    """
    check_reason(reason)
    with _writing(mandate.folder) as (memory, journal):
        _write(journal, "accepted", reason)
        _write(journal, "joined", what)
        now = utc_now()
        kept = mandate.folder / f"{FOLDER}-until-{now:%Y%m%dT%H%M%S.%fZ}"
        crls, checkpoints = memory.replace(known, f"{what}, {rfc3339(now)}", kept)
    return Replaced(crls, checkpoints, kept if kept.exists() else None)


def check_reason(reason: str) -> None:
    """Check that there is a reason. Raises ConfigError."""
    if not reason.strip():
        raise ConfigError("the reason is empty", hint="Say why: it is kept in the signers' journal.")


def check_user(folder: Path) -> int:
    """Check that this user may write for the signers: is theirs, or root, who becomes theirs.

    Args:
        folder: of the signers; it need not exist.

    Returns:
        The signers' user id: that of the folder's owner, or else of the first one above it.

    Raises:
        ConfigError: it is another user.
    """
    try:
        while not folder.exists():
            folder = folder.parent
        owner = folder.stat().st_uid
    except OSError as error:
        raise ConfigError(
            f"can't read {folder}: {error.strerror}", hint="Run this as root, or as the signers' user."
        ) from None
    if os.geteuid() not in (0, owner):
        raise ConfigError(
            f"{folder} belongs to the user {_name(owner)}",
            hint=f"Run this as root, or as the signers' user: sudo -u {_name(owner)} otahsm ...",
        )
    return owner


@contextmanager
def _writing(folder: Path) -> Iterator[tuple[Memory, Journal]]:
    """Lock the memory of the signers, as their user; flush their journal afterwards."""
    with _becoming(check_user(folder), folder):
        memory, journal = Memory(folder), Journal(folder)
        with memory.locked():
            yield memory, journal


@contextmanager
def _becoming(user: int, folder: Path) -> Iterator[None]:
    """Have root write as another user, so that the files belong to it."""
    before, group = os.geteuid(), os.getegid()
    if user == before:
        yield
        return
    while not folder.exists():
        folder = folder.parent
    os.setegid(folder.stat().st_gid)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(before)
        os.setegid(group)


def _write(journal: Journal, word: str, what: str) -> None:
    journal.append([f"{word} {rfc3339(utc_now())} {one_line(what)}"])
    journal.flush()


def _subjects(mandate: Mandate) -> tuple[list[str], list[bytes]]:
    """Return the verifier keys of the logs, and the key identifiers of the CAs that sign CRLs."""
    vkeys = [mandate.checkpoint.verifier_key.vkey] if mandate.checkpoint else []
    signing = [item.issuer.key_identifier for item in mandate.authorities.values() if item.crl_seconds]
    return vkeys, signing


def _known(memory: Memory, mandate: Mandate) -> Known:
    try:
        return memory.known(*_subjects(mandate))
    except PermissionError as error:
        raise ConfigError(
            f"can't read {error.filename}: {error.strerror}",
            hint="Run this as root, or as the signers' user.",
        ) from None


def _newer(here: CrlToSign, ledgers: CrlToSign | None) -> CrlToSign:
    """Return the newer CRL of a scope. Raises LedgerTamperedError: the ledger's does not continue it."""
    name = f"the CRL {here.number} {here.scope}".rstrip()
    was_accepted = not here.this_update  # then its number may be higher than any in the ledger
    if ledgers is None:
        if was_accepted and not here.entries:
            return here
        raise LedgerTamperedError(f"{name} was signed, and the ledger has none of its scope", hint=_DECIDED)
    if ledgers.number < here.number and not was_accepted:
        raise LedgerTamperedError(
            f"{name} was signed, and the ledger has {ledgers.number} as the newest",
            hint=_DECIDED,
        )
    lost = split_entries(here.entries) - split_entries(ledgers.entries)
    is_another = ledgers.number == here.number and ledgers[:-1] != here[:-1] and not was_accepted
    if lost or is_another:
        raise LedgerTamperedError(
            f"the ledger's CRL {ledgers.number} does not continue {name}, which was signed:"
            f" {counted(len(lost), 'revocation is missing', 'revocations are missing')}",
            hint=_DECIDED,
        )
    return at_least(ledgers, here.number)


def _summary(known: Known) -> str:
    logs = counted(len(known.checkpoints), "log")
    return f"{logs} and {counted(len(known.crls), 'CA')}"


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
