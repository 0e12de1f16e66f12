"""`otahsm ledger join`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.commands.ledger.evidence import KeysOption, known_checkpoints, trusted_keys
from otahsm.cli.commands.ledger.signed_last import (
    SignedLast,
    check_kept,
    confirmed_size,
    kept_crls,
    signed_last,
)
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.failures import warn
from otahsm.cli.output.fields import print_fields, print_outcome
from otahsm.cli.settings import load_config
from otahsm.errors import LedgerTamperedError
from otahsm.templates import counted
from otahsm.token.configured import mandate_of
from otahsm.token.desk.beginning import join as join_ledger
from otahsm.token.desk.beginning import known_here, merge, missing
from otahsm.token.desk.memory import Known


def join(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint that was kept elsewhere, preferably the newest. Repeatable."),
    ] = None,
    crl: Annotated[
        list[Path] | None,
        typer.Option(
            help="A CRL that was published, as fetched from where gateways get it: the ledger must have it,"
            " or one that continues it. Repeatable."
        ),
    ] = None,
    key: KeysOption = None,
    expect: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10**15,
            help="Ask nothing, and go on if the ledger's newest checkpoint has at least this many leaves.",
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Have the signers of this machine go on from the ledger: on a new or rebuilt machine, or for a new CA.

    Signers sign a CRL or a checkpoint only if it continues the last one. A machine that has signed none
    yet does not know it, and signs neither until this command has taken both from the ledger. It verifies
    them with the keys of the configuration, and that the ledger's tree continues the checkpoint. It can't
    see whether the ledger itself is an older copy, or lacks a CRL: name a checkpoint that was kept elsewhere
    and the CRLs that gateways have, or compare the number of leaves. What it did is written into the signers'
    journal.

    Run it as root, who can read the ledger and writes as the signers' user; or as that user, if it can read
    the ledger.

    \b
    Example:
      otahsm ledger join --checkpoint 2026-11-24.note --crl fleet.crl
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    mandate = mandate_of(settings)
    keys = trusted_keys(key, settings.checkpoint)
    kept = known_checkpoints(checkpoint or [], keys)
    published = kept_crls(crl or [], mandate)
    here = known_here(mandate)
    with signed_last(settings, mandate, keys) as (found, grew):
        check_kept(kept, grew)
        merge(published, found.known, grew)
        known = merge(here, found.known, grew)
    if not as_json:
        print_fields("Ledger", {**found.fields(), "this machine": _told(here, missing(mandate, here))})
    if expect is None:
        if not kept:
            warn(
                "whether this is an older copy of the ledger can't be seen here. Compare the number of leaves"
                " with what other machines, or the newest checkpoint that was kept elsewhere, say."
            )
        confirmed_size(typer.prompt(f"To go on from it, type {found.size}", err=True), found.size)
    elif found.size < expect:
        raise LedgerTamperedError(
            f"the ledger has only {counted(found.size, 'leaf', 'leaves')}, not {expect}; nothing was changed",
        )
    join_ledger(mandate, known, here, found.title)
    _print(found, here, as_json=as_json)


def _print(found: SignedLast, here: Known, *, as_json: bool) -> None:
    again = bool(here.checkpoints or here.crls)
    print_outcome(
        f"The signers of this machine go on from {found.title}.",
        as_json=as_json,
        again=again,
        **found.as_dict(),
    )


def _told(here: Known, new: Known) -> str:
    """Return what was known on the machine, and what was not."""
    known = [f"a checkpoint of {counted(last.size, 'leaf', 'leaves')}" for last in here.checkpoints.values()]
    if here.crls:
        known.append(counted(sum(map(len, here.crls.values())), "CRL"))
    unknown = [
        *(["the log"] if new.checkpoints else []),
        *([counted(len(new.crls), "CA")] if new.crls else []),
    ]
    said = [f"knows {' and '.join(known)}, which the ledger continues"] if known else []
    said += [f"knows nothing of {' and '.join(unknown)}"] if unknown else []
    return "; ".join(said) or "signs neither CRLs nor checkpoints"
