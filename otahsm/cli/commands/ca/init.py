"""`otahsm ca`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from otahsm.cli.commands.ca.options import (
    AnswersOption,
    CaOption,
    KeyTypeOption,
    OperatorsOption,
    PathLengthOption,
    RecordOption,
    token_and_authority,
)
from otahsm.cli.commands.ca.record import certificate_fields, write_record
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.output.failures import warn
from otahsm.cli.output.fields import print_descriptions
from otahsm.cli.settings import load_config
from otahsm.config import CaConfig, TokenConfig, ca_section
from otahsm.errors import ConfigError
from otahsm.pki.descriptions import describe
from otahsm.pki.keytypes import KeyType
from otahsm.pki.root import RootKind
from otahsm.token.ceremony import MAX_NAME, Made, create_root, valid_for
from otahsm.token.files import write_certificate


def init(
    name: Annotated[str, typer.Option(help="The root's common name, 1 to 64 characters.")] = "Fleet root",
    key_type: KeyTypeOption = "ec-p256",
    days: Annotated[int, typer.Option(min=1, max=36525, help="How many days the root is valid.")] = 7300,
    kind: Annotated[
        RootKind,
        typer.Option(
            help="root: every verifier accepts it. root-here: as in the OTA Connect guide, to the letter."
        ),
    ] = "root",
    path_length: PathLengthOption = None,
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    _answers: AnswersOption = None,
) -> None:
    """Make the CA key pair in the token, and its self-signed root certificate.

    Uses [token] and [ca] in the configuration. Refuses if the token has an object with the key's label or
    id, or the certificate's file exists.

    otahsm signs no CA certificates. Give --path-len only if another tool will sign CAs with the root's key.
    """
    if kind == "root-here" and path_length is not None:
        raise typer.BadParameter(
            "a root of kind root-here is the guide's to the letter, which has no pathLenConstraint: leave out"
            " --path-len, or use --kind root"
        )
    token, ca = token_and_authority(load_config(config), ca_name)
    root = make_root(
        token,
        ca,
        ca_section(ca_name),
        key_type=key_type,
        common_name=name,
        days=days,
        kind=kind,
        path_length=path_length or 0,
        if_exists="If you really want a new CA, move it away.",
    )
    typer.echo(f"The key is {ca.key} in {token.name}; the certificate is {ca.certificate}.")
    made = certificate_fields(f"CN={name}", root.der)
    write_record("ca init", token, ca, root.facts, made, record, operators)
    if kind == "root-here":
        warn(
            "a root of kind root-here has extendedKeyUsage serverAuth. A gateway that verifies with"
            " OpenSSL (nginx, for one) will refuse EVERY device under it. Use it only for a gateway that"
            " insists on it."
        )


def make_root(
    token: TokenConfig,
    ca: CaConfig,
    section: str,
    *,
    key_type: KeyType,
    common_name: str,
    days: int,
    kind: RootKind,
    path_length: int,
    if_exists: str,
) -> Made:
    """Make a CA's key pair and its self-signed root, valid from now on, write the root, and show it.

    Args:
        token: where the key is to be.
        ca: the CA's section.
        section: the section's name, for errors.
        key_type: as the following, of `create_root`.
        common_name: the root's.
        days: how long it is.
        kind: of the root.
        path_length: how many CAs may be below it.
        if_exists: what to do if there is a certificate already.

    Raises:
        OtahsmError: there is one; or as `create_root` and `write_certificate`.
    """
    if not 1 <= len(common_name) <= MAX_NAME:
        raise typer.BadParameter(f"--name takes 1 to {MAX_NAME} characters")
    if ca.certificate.exists():
        raise ConfigError(
            f"[{section}] certificate {ca.certificate} exists; nothing was changed", hint=if_exists
        )
    root = create_root(
        token,
        ca,
        key_type=key_type,
        common_name=common_name,
        validity=valid_for(days, datetime.now(UTC)),
        kind=kind,
        path_length=path_length,
    )
    write_certificate(ca.certificate, root.der)
    print_descriptions(describe(root.der), as_json=False)
    return root
