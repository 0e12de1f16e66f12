"""`otahsm ledger init-key`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated, Final, NamedTuple

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_json
from otahsm.cli.settings import load_config
from otahsm.config import Config, load_verifier_key, section
from otahsm.errors import ConfigError
from otahsm.ledger import create_mac_key, is_unused, path_of_key
from otahsm.ledger import replace_mac_key as make_another_mac_key
from otahsm.templates import counted
from otahsm.tlog import VerifierKey
from otahsm.token.ceremony import create_checkpoint_key
from otahsm.token.configured import mandate_of
from otahsm.token.desk.beginning import begin, known_here, missing
from otahsm.token.files import write_verifier_key


class Part(NamedTuple):
    """What a new ledger needs, and what the command did about it.

    Attributes:
        name: for programs.
        made: whether it was made now; None if it is not for this command to make.
        said: the same for people.
        output: what is printed to standard output; empty for nothing.
        fields: what programs need to know of it.
    """

    name: str
    made: bool | None
    said: str
    output: str = ""
    fields: Mapping[str, str] | None = None


def init_key(
    replace_mac_key: Annotated[
        bool,
        typer.Option(
            "--replace-mac-key",
            help="Only replace the key in [ledger] key_file, in two steps: run it twice.",
        ),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make what a new ledger needs: its MAC key, the key pair of checkpoints, and the memory of the signers.

    What exists is kept, and said. The MAC key is written to [ledger] key_file. Every daemon of a ledger needs
    the same: only who has it can add to the ledger's log. The key pair is made in the token, as [token] and
    [checkpoint] say, and its public key is written to a file; without [checkpoint] there is none. Refuses if
    the token has an object with the key's label or id, and the public key's file is missing.

    Signers sign a CRL or a checkpoint only if it continues the last one. For a ledger that has never held
    anything, this tells the signers of this machine that there is none. For any other, use `otahsm ledger
    join`.
    """
    settings = load_config(config)
    parts = []
    for make in (_new_mac_key,) if replace_mac_key else _PARTS:
        part = make(settings)
        parts.append(part)
        if not as_json:
            if part.output:
                typer.echo(part.output)
            typer.echo(part.said, err=True)
    if as_json:
        fields = {name: value for part in parts for name, value in (part.fields or {}).items()}
        said = [{"name": part.name, "made": part.made, "message": part.said} for part in parts]
        print_json({**fields, "parts": said})


def _mac_key(settings: Config) -> Part:
    ledger = section(settings.ledger, "ledger")
    path = path_of_key(ledger)
    if os.path.lexists(path):
        return Part("MAC key", made=False, said=f"[ledger] key_file {path} exists, and was not changed.")
    try:
        create_mac_key(ledger)
    except ConfigError as error:
        return Part("MAC key", None, f"{error.message}. Run this again as a user who can write it.")
    return Part(
        "MAC key",
        made=True,
        said=f"The MAC key is in {path}. Every daemon of this ledger needs it, and nobody else: give it"
        " to the daemon's user.",
        fields={"key_file": str(path)},
    )


def _new_mac_key(settings: Config) -> Part:
    ledger = section(settings.ledger, "ledger")
    promoted = make_another_mac_key(ledger)
    path = path_of_key(ledger)
    said = (
        f"The new MAC key in {path} is to be used, and the one before is still accepted. Copy the file to all"
        " daemons of this ledger, and restart them."
        if promoted
        else f"{path} has a new MAC key, which is accepted and not used yet. Copy the file to all daemons of"
        " this ledger, restart them, and run this again here."
    )
    return Part("MAC key", made=True, said=said, fields={"key_file": str(path)})


def _checkpoint_key(settings: Config) -> Part:
    checkpoint = settings.checkpoint
    if checkpoint is None:
        return Part("checkpoint key", None, "There is no [checkpoint]: no checkpoints are made.")
    path = checkpoint.verifier_key
    if made := not path.exists():
        token = section(settings.token, "token")
        spki = create_checkpoint_key(token, checkpoint).der
        vkey = VerifierKey.from_spki(checkpoint.origin, spki).vkey
        write_verifier_key(path, vkey)
        said = (
            f"The key is {checkpoint.key} in {token.name}; the public key is {path}:"
            " give it to those who verify checkpoints."
        )
    else:
        vkey = load_verifier_key(checkpoint).vkey
        said = (
            f"[checkpoint] verifier_key {path} exists, and was not changed. If you really want a new key,"
            " move it away, and keep it: older checkpoints need it."
        )
    return Part("checkpoint key", made, said, vkey, {"verifier_key": vkey, "file": str(path)})


def _memory(settings: Config) -> Part:
    mandate = mandate_of(settings)
    new = missing(mandate, known_here(mandate))
    if not new.checkpoints and not new.crls:
        return Part("memory", made=False, said="The signers of this machine know what they signed last.")
    what = " and ".join(
        [*(["the log"] if new.checkpoints else []), *([counted(len(new.crls), "CA")] if new.crls else [])]
    )
    if not is_unused(section(settings.ledger, "ledger")):
        return Part(
            "memory",
            None,
            f"The ledger is in use, and the signers of this machine know nothing of {what}: they sign neither"
            " its CRLs nor its checkpoints until you have run `otahsm ledger join`.",
        )
    begin(mandate)
    return Part(
        "memory", made=True, said=f"The signers of this machine begin with {what}: nothing was signed."
    )


_PARTS: Final[tuple[Callable[[Config], Part], ...]] = (_mac_key, _checkpoint_key, _memory)
