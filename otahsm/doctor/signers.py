"""Checks what signers have written down."""

from __future__ import annotations

from collections.abc import Iterator

from otahsm.checks import Check, failed, ok, warning
from otahsm.config import TokenConfig
from otahsm.errors import ConfigError
from otahsm.templates import counted
from otahsm.token.configured import folder_of
from otahsm.token.desk.journal_reading import MachineJournal, SignedCertificate

_SUBJECT = "signers' journal"


def examine_signers(token: TokenConfig) -> Iterator[Check]:
    """Look for refusals in the newest file of the signers' journal."""
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
        journal = MachineJournal(folder, only_newest=True)
        certificates = sum(isinstance(entry, SignedCertificate) for entry in journal.entries())
    except ConfigError as error:
        yield failed(_SUBJECT, error)
        return
    if journal.refused:
        yield warning(
            _SUBJECT,
            f"signers refused {counted(journal.refused, 'request')}; the last: {journal.last_refusal}",
            "Compare the clocks and the configurations of daemon and signers. If they are the same, find out"
            " who asked: `otahsm audit --event signing.refused`, and `otahsm ledger verify --journal`.",
        )
        return
    yield ok(_SUBJECT, f"no refusals; {counted(certificates, 'certificate')} in the newest file")
