"""`otahsm ca import-key`: a CA key that is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from otahsm.cli.commands.ca.options import (
    AnswersOption,
    CaOption,
    OperatorsOption,
    RecordOption,
    YesOption,
    confirm,
    token_and_authority,
)
from otahsm.cli.commands.ca.record import write_record
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.output.failures import warn
from otahsm.cli.settings import load_config
from otahsm.config import ca_section
from otahsm.errors import ConfigError
from otahsm.pki.keytypes import PrivateKey, is_private_key
from otahsm.pki.keytypes.family import encode_spki
from otahsm.system.files import read_file
from otahsm.token import ceremony
from otahsm.token.files import read_chain


def import_key(
    file: Annotated[Path, typer.Argument(help="The private key: PKCS#8 in PEM, encrypted or not.")],
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    _answers: AnswersOption = None,
) -> None:
    """Import a CA key from a file into the token, for a CA that devices already trust.

    The token does nothing about copies that exist elsewhere. [ca] must say accept = ["not-local"]. The file
    is not deleted.
    """
    token, ca = token_and_authority(load_config(config), ca_name)
    section = ca_section(ca_name)
    key = _read_key(file)
    if ca.certificate.exists():
        issuer = read_chain(ca, section).issuer
        if encode_spki(issuer.public_key) != encode_spki(key.public_key()):
            raise ConfigError(
                f"the key in {file} is not the one of [{section}] certificate {ca.certificate}; nothing was"
                " changed",
                hint="Name the key that belongs to the certificate, or move the certificate away.",
            )
    warn(
        "this key was outside the token. Whoever has, or ever had, a copy of the file can issue"
        " certificates for every device, for as long as gateways trust this CA; no HSM, ledger or revocation"
        " helps against that. Make a new CA with `otahsm ca init` as soon as the fleet allows."
    )
    confirm(f"Put the key from {file} into {token.name}?", yes=yes)
    facts = ceremony.import_key(token, ca, section, key)
    typer.echo(f"The key is {ca.key} in {token.name}.")
    typer.echo(f"{file} still exists. Destroy it, and every copy and backup of it.", err=True)
    write_record("ca import-key", token, ca, facts, {"from": str(file)}, record, operators)


def _read_key(path: Path) -> PrivateKey:
    wrong = ConfigError(f"{path} has no PEM private key that otahsm can use")
    octets = read_file(path)
    try:
        if b"ENCRYPTED" in octets:
            password: bytes | None = typer.prompt("Passphrase of the key", hide_input=True).encode()
        else:
            password = None
        key = load_pem_private_key(octets, password)
    except (ValueError, TypeError):
        raise wrong from None

    if not is_private_key(key):
        raise wrong
    return key
