"""`otahsm ledger accept`."""

from __future__ import annotations

from typing import Annotated

import typer

from otahsm.cli.commands.ledger.evidence import KeysOption, trusted_keys
from otahsm.cli.commands.ledger.signed_last import SignedLast, signed_last
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_outcome
from otahsm.cli.settings import load_config
from otahsm.config import Config
from otahsm.templates import counted
from otahsm.tlog import VerifierKey
from otahsm.token.configured import mandate_of
from otahsm.token.desk.beginning import Replaced, check_reason, check_user
from otahsm.token.desk.beginning import accept as accept_ledger


def accept(
    reason: Annotated[str, typer.Option(help="Why, for the signers' journal.")],
    key: KeysOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Have the signers of this machine go on from the ledger as it is now, though it lacks what they signed.

    Signers refuse a CRL without a revocation that they have signed, and a checkpoint that does not continue
    their last one. That is how a ledger that was changed or rolled back is noticed. After you restored an
    older copy yourself, this replaces what they know by what the ledger has, as `otahsm ledger join` does on
    a new machine. It is written into their journal, and what they knew is kept in a folder.

    Devices that were revoked since that copy are trusted again, until you revoke them again. Run it on every
    machine with signers: as root, who writes as the signers' user, or as that user, if it can read the
    ledger.

    \b
    Example:
      otahsm ledger accept --reason "disk failed, restored the backup of 2026-11-23"
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    found, replaced = accept_as_it_is(settings, trusted_keys(key, settings.checkpoint), reason)
    what = f"{counted(replaced.crls, 'CRL')} and {counted(replaced.checkpoints, 'checkpoint')}"
    kept = f" They knew {what} before: see {replaced.kept}." if replaced.kept else ""
    print_outcome(
        f"The signers of this machine go on from {found.title}.{kept}",
        as_json=as_json,
        replaced_crls=replaced.crls,
        replaced_checkpoints=replaced.checkpoints,
        kept=str(replaced.kept) if replaced.kept else None,
        **found.as_dict(),
    )


def accept_as_it_is(settings: Config, keys: list[VerifierKey], reason: str) -> tuple[SignedLast, Replaced]:
    """Have the signers go on from the ledger as it is; for errors see `signed_last` and `accept`."""
    mandate = mandate_of(settings)
    check_reason(reason)
    check_user(mandate.folder)
    with signed_last(settings, mandate, keys) as (found, _):
        pass
    return found, accept_ledger(mandate, found.known, found.title, reason)
