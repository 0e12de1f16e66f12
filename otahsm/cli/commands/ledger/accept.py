"""`otahsm ledger accept`."""

from __future__ import annotations

from typing import Annotated

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_outcome
from otahsm.config import load_config, section
from otahsm.templates import counted
from otahsm.token.configured import folder_of
from otahsm.token.desk.acceptance import forget


def accept(
    reason: Annotated[str, typer.Option(help="Why, for the signers' journal.")],
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Have the signers of this machine go on from the ledger as it is now, though it lacks what they signed.

    Signers refuse a CRL without a revocation that they have signed, and a checkpoint that does not continue
    their last one. That is how a ledger that was changed or rolled back is noticed. After you restored an
    older copy yourself, this makes them forget what they signed last. It is written into their journal.

    Devices that were revoked since that copy are trusted again, until you revoke them again. Run it on every
    machine with signers, as the user that they run as.

    \b
    Example:
      otahsm ledger accept --reason "disk failed, restored the backup of 2026-11-23"
    """  # noqa: D301 - click reads the character, not the escape
    forgotten = forget(folder_of(section(load_config(config).token, "token")), reason)
    what = f"{counted(forgotten.crls, 'CRL')} and {counted(forgotten.checkpoints, 'checkpoint')}"
    kept = f"; what they were is in {forgotten.kept}" if forgotten.kept else ""
    print_outcome(
        f"The signers have forgotten {what}{kept}.",
        as_json=as_json,
        crls=forgotten.crls,
        checkpoints=forgotten.checkpoints,
        kept=str(forgotten.kept) if forgotten.kept else None,
    )
