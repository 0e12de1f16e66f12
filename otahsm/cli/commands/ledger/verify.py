"""`otahsm ledger verify`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from otahsm.cli.commands.ledger.evidence import KeysOption, known_checkpoints, trusted_keys
from otahsm.cli.commands.ledger.journals import Compared, read_journals
from otahsm.cli.commands.ledger.recorded import Recorded, compare_recorded, configured_issuers
from otahsm.cli.commands.ledger.weak_keys import ComparedKeys, look_at_keys
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_json
from otahsm.cli.settings import load_config
from otahsm.config import LedgerConfig, section
from otahsm.errors import ConfigError, ExitCode
from otahsm.ledger import (
    MacKeys,
    Signatures,
    Verdict,
    compare_signatures,
    read_mac_keys,
    snapshot,
    verify_shape,
)
from otahsm.ledger import verify as verify_ledger
from otahsm.pki.issuer import Issuer
from otahsm.templates import counted, plain


def verify(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint that was kept elsewhere, preferably the newest. Repeatable."),
    ] = None,
    key: KeysOption = None,
    journal: Annotated[
        list[Path] | None,
        typer.Option(
            help="The signers' journal of a machine: signed/journal in its guard_dir, or a copy. Name"
            " those of all machines. Repeatable."
        ),
    ] = None,
    compare_keys: Annotated[
        bool,
        typer.Option(
            "--keys",
            help="Then compare all RSA keys with each other, and list the certificates whose private keys"
            " others can compute.",
        ),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Verify that nobody changed the ledger: recompute its tree, and name rows changed, removed or added.

    It also compares each certificate and CRL with its row, with the signature of its CA, which it takes from
    the configuration, and with the revocations.

    Reads the database that [ledger] names, even beside a running daemon. Exits with 1 if anything does not
    match. It begins with the tables: a trigger, a view or whatever else can change what otahsm reads and
    writes does not match. Without a checkpoint from elsewhere, it can't notice that the newest rows were
    removed.

    With --journal, it also compares what signers signed with what the ledger holds, both ways: a signature
    that the ledger does not account for, and a certificate that no signer of yours has signed.

    With --keys, it also exits with 1 if a certificate must be revoked or can't be read. It names each that
    is neither expired nor revoked and has an RSA key that shares a prime with another, has a small factor, or
    is another device's too. 10,000 RSA keys take 40 seconds, 100,000 ten minutes.

    \b
    Example:
      otahsm ledger verify --checkpoint 2026-11-24.note --keys
    """  # noqa: D301 - click reads the character, not the escape
    settings = load_config(config)
    keys = trusted_keys(key, settings.checkpoint)
    known = known_checkpoints(checkpoint or [], keys)
    issuers = configured_issuers(settings)
    mac_keys = _mac_keys(section(settings.ledger, "ledger"), issuers)
    began = time.monotonic()
    with Console(stderr=True).status("0 leaves") as shown, Signatures() as signed:
        # Before the snapshot: what was signed by now is in it.
        of_files = Verdict()
        journals = read_journals(journal, signed, of_files) if journal else None
        comparison = None
        with snapshot(section(settings.ledger, "ledger")) as connection:
            verdict = verify_shape(
                connection,
                lambda: verify_ledger(
                    connection, keys, known, lambda count: shown.update(f"{count} leaves"), mac_keys
                ),
            )
            recorded = compare_recorded(connection, issuers, verdict, shown.update)
            verdict.add(of_files.findings, of_files.count)
            if journals and verdict.readable:
                comparison = compare_signatures(connection, signed, journals.covered, journals.gaps, verdict)
    compared = Compared(journals, comparison, signed) if journals and comparison else None
    seconds = time.monotonic() - began
    compared_keys = look_at_keys(settings) if compare_keys and verdict.readable else None
    print_verdict(
        verdict, recorded, compared, compared_keys, seconds=seconds, signed=bool(keys), as_json=as_json
    )
    if not (verdict.good and (compared_keys is None or compared_keys.verdict.good)):
        raise typer.Exit(ExitCode.SOME_FAILED)


def _mac_keys(ledger: LedgerConfig, issuers: Sequence[Issuer]) -> MacKeys | None:
    """Return the MAC keys; None for an auditor who does not have them, or has no CA configured."""
    if not issuers:
        return None
    try:
        return read_mac_keys(ledger).of_ledger(issuer.key_identifier for issuer in issuers)
    except ConfigError:
        return None


def print_verdict(
    verdict: Verdict,
    recorded: Recorded | None,
    compared: Compared | None,
    compared_keys: ComparedKeys | None,
    *,
    seconds: float,
    signed: bool,
    as_json: bool,
) -> None:
    """Print what a verification found."""
    if as_json:
        print_json(
            {
                "good": verdict.good,
                "leaves": verdict.leaves,
                "root": verdict.root.hex() if verdict.root else None,
                "waiting": verdict.waiting,
                "waiting_not_verified": verdict.unverified_waiting,
                "checkpoints": verdict.checkpoints,
                "signatures_verified": signed,
                "signed_size": verdict.signed_size,
                "seconds": round(seconds, 3),
                "findings": verdict.count,
                "first": [finding._asdict() for finding in verdict.findings],
                "warnings": [warning._asdict() for warning in verdict.warnings],
                **(recorded.as_dict() if recorded else {"certificates": None, "crls": None}),
                "journals": compared and compared.as_dict(),
                "keys": compared_keys and compared_keys.as_dict(),
            }
        )
        return
    for where, what in verdict.findings:
        typer.secho(plain(f"{where}: {what}"), fg=typer.colors.RED)
    if verdict.count > len(verdict.findings):
        typer.echo(f"and {verdict.count - len(verdict.findings)} more")
    for where, what in verdict.warnings:
        typer.secho(plain(f"warning: {where}: {what}"), fg=typer.colors.YELLOW)
    covered = "no checkpoint covers them"
    if verdict.signed_size is not None:
        vouched = "signed" if signed else "in a checkpoint whose signature was not verified"
        covered = f"the first {verdict.signed_size} are {vouched}"
    rate = verdict.leaves / max(seconds, 1e-9)
    leaves = counted(verdict.leaves, "leaf", "leaves")
    typer.echo(
        f"{leaves} and {counted(verdict.checkpoints, 'checkpoint')} in {seconds:.1f} s ({rate:.0f} leaves a"
        f" second); {covered};"
        f" {counted(verdict.waiting, 'entry is no leaf', 'entries are not leaves')} yet"
    )
    parts = [part for part in (recorded, compared) if part]
    for line in (line for part in parts for line in part.lines()):
        typer.echo(plain(line))
    if verdict.unverified_waiting:
        entries = counted(verdict.unverified_waiting, "entry that is no leaf", "entries that are not leaves")
        why = "[ledger] key_file can't be read, or no CA is configured"
        typer.echo(f"NOT VERIFIED: whether a daemon queued {entries} yet, as {why}")
    matches = "Everything matches."
    if verdict.unverified_waiting or not all(part.is_complete for part in parts):
        matches = "Everything that was compared matches."
    typer.echo(matches if verdict.good else f"{verdict.count} MISMATCHES.")
    if compared_keys is not None:
        compared_keys.print()
