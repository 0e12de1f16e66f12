"""`otahsm ledger`: what shows that nobody changed the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.commands.ledger.evidence import (
    about,
    check_consistency,
    check_inclusion,
    read_checkpoint,
    trusted_keys,
)
from otahsm.cli.connect import ask
from otahsm.cli.inputs import serial_of
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, OutputOption, PatienceOption
from otahsm.cli.output.files import write_output
from otahsm.system.files import read_file
from otahsm.tlog import ConsistencyProof, InclusionProof


def checkpoint(
    new: Annotated[bool, typer.Option("--new", help="Make a new one of everything recorded so far.")] = False,
    output: OutputOption = None,
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Fetch the daemon's latest checkpoint, a signed note. Keep it out of the ledger's reach.

    \b
    Example:
      otahsm ledger checkpoint --new --output 2026-11-24.note
    """  # noqa: D301 - click reads the character, not the escape
    note = ask(config, patience, lambda client: client.transparency.checkpoint(make_new=new))
    write_output(output, note)


def prove(
    serial: Annotated[str, typer.Argument(help="The certificate's serial number, in hexadecimal.")],
    output: OutputOption = None,
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Fetch the proof that the ledger has a certificate. Verify it offline with `otahsm ledger check-proof`.

    \b
    Example:
      otahsm ledger prove 019ab2f1c4 --output 17.tlog-proof
    """  # noqa: D301
    number = serial_of(serial, "SERIAL")
    proof = ask(config, patience, lambda client: client.transparency.prove_inclusion(number))
    write_output(output, proof)


def prove_consistency(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="An older checkpoint.")],
    output: OutputOption = None,
    patience: PatienceOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Fetch the proof that the ledger only grew since an older checkpoint. Verify it with `check-proof`."""
    size = read_checkpoint(old).size
    proof = ask(config, patience, lambda client: client.transparency.prove_consistency(size))
    write_output(output, proof)


def check_proof(
    file: Annotated[Path, typer.Argument(help="A file from `prove` or `prove-consistency`.")],
    key: Annotated[list[Path], typer.Option(help="The log's verifier key. Repeatable.")],
    certificate: Annotated[
        Path | None, typer.Option(help="The certificate that it should prove, in PEM or DER.")
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="The older checkpoint, for a file from `prove-consistency`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a proof without daemon, ledger or network. Exits with 1 if it does not prove what it should.

    \b
    Examples:
      otahsm ledger check-proof 17.tlog-proof --key checkpoint.vkey --certificate client.pem
      otahsm ledger check-proof growth.proof --key checkpoint.vkey --since 2026-11-24.note
    """  # noqa: D301
    proof = read_file(file)
    keys = trusted_keys(key, None)
    if proof.startswith(b"old "):
        if since is None or certificate is not None:
            raise typer.BadParameter("check a consistency proof with --since, and without --certificate")
        with about(file):
            growth = ConsistencyProof.parse(proof)
        check_consistency(growth, keys, since, as_json=as_json)
        return
    if since is not None:
        raise typer.BadParameter("--since is only for a file from `prove-consistency`")
    with about(file):
        inclusion = InclusionProof.parse(proof)
    check_inclusion(inclusion, keys, certificate, as_json=as_json)
