"""`otahsm ledger init-key`."""

from __future__ import annotations

import typer

from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.fields import print_outcome
from otahsm.config import load_config, section
from otahsm.errors import ConfigError
from otahsm.tlog import VerifierKey
from otahsm.token.ceremony import create_checkpoint_key
from otahsm.token.files import write_verifier_key


def init_key(as_json: JsonOption = False, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make the key pair that signs checkpoints in the token, and write its public key to a file.

    Uses [token] and [checkpoint] in the configuration. Refuses if the token has an object with the key's
    label or id, or the public key's file exists.
    """
    settings = load_config(config)
    token, checkpoint = section(settings.token, "token"), section(settings.checkpoint, "checkpoint")
    if checkpoint.verifier_key.exists():
        raise ConfigError(
            f"[checkpoint] verifier_key {checkpoint.verifier_key} exists; nothing was changed",
            hint="If you really want a new key, move it away, and keep it: older checkpoints need it.",
        )
    made = create_checkpoint_key(token, checkpoint)
    vkey = VerifierKey.from_spki(checkpoint.origin, made.der).vkey
    write_verifier_key(checkpoint.verifier_key, vkey)
    print_outcome(vkey, as_json=as_json, verifier_key=vkey, file=str(checkpoint.verifier_key))
    typer.echo(
        f"The key is {checkpoint.key} in {token.name}; the public key is {checkpoint.verifier_key}:"
        " give it to those who verify checkpoints.",
        err=True,
    )
