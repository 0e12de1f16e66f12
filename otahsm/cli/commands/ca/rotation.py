"""`otahsm ca rotate` and `retire`: a new CA beside the old one, then the end of the old one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from otahsm.cli.commands.ca.init import make_root
from otahsm.cli.commands.ca.options import (
    AnswersOption,
    OperatorsOption,
    PathLengthOption,
    RecordOption,
    YesOption,
    authority_section,
    confirm,
    token_and_authority,
)
from otahsm.cli.commands.ca.record import certificate_fields, fingerprint, write_record
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption
from otahsm.cli.output.times import show_time
from otahsm.cli.settings import load_config
from otahsm.config import ca_section, section
from otahsm.errors import ConfigError
from otahsm.ledger import count_valid
from otahsm.pki.keytypes import KeyType
from otahsm.token.ceremony import destroy_key
from otahsm.token.files import read_chain

NameArgument = Annotated[str, typer.Argument(help="NAME of the section [authorities.NAME].", metavar="NAME")]


def rotate(
    authority: NameArgument,
    name: Annotated[str, typer.Option(help="The new root's common name, 1 to 64 characters.")] = "",
    key_type: Annotated[
        KeyType | None, typer.Option(help="The type of the new CA's key. Default: that of [ca].")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=36525, help="How many days the root is valid.")] = 7300,
    path_length: PathLengthOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    _answers: AnswersOption = None,
) -> None:
    """Make the next CA beside the one in [ca]: a key pair in the token, and a self-signed root certificate.

    First write [authorities.NAME], with the new key's URI, the certificate's file, and a crl table of its
    own. Then both CAs are active: `ca` in each profile says which one issues, and each signs its own CRLs.
    For a CA under an external root, use `ca csr --ca NAME` and `ca import --ca NAME` instead.
    """
    settings = load_config(config)
    token, old = token_and_authority(settings, "")
    new = authority_section(settings, authority)
    issuer = read_chain(old).issuer
    common_name = name or f"{issuer.subject_text.removeprefix('CN=')} {authority}"
    root = make_root(
        token,
        new,
        ca_section(authority),
        key_type=key_type or issuer.key_type,
        common_name=common_name,
        days=days,
        kind="root",
        path_length=path_length or 0,
        if_exists="Choose another name for the new CA.",
    )
    typer.echo(
        f"The key is {new.key} in {token.name}; the certificate is {new.certificate}. Next:\n"
        "  1. Have the signers of each machine sign its CRLs: otahsm ledger join\n"
        f"  2. Make every gateway trust it too: otahsm ca export anchor --ca {authority}\n"
        f'  3. Write ca = "{authority}" into the profiles it should issue, and restart the daemon.\n'
        "  4. When the last certificate of the old CA has expired: otahsm ca retire"
    )
    made = {
        **certificate_fields(f"CN={common_name}", root.der),
        "beside": issuer.subject_text,
        "beside, SHA-256": fingerprint(issuer.certificate),
    }
    write_record("ca rotate", token, new, root.facts, made, record, operators)


def retire(
    authority: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    _answers: AnswersOption = None,
) -> None:
    """Destroy the key of a CA that is no longer needed. This can't be undone.

    If the CA is in [ca], move it to [authorities.NAME] first. Its section stays, because its certificates
    are in the ledger: first write retired = true there, and restart every daemon that has it. Refuses while
    the CA has certificates that are valid and not revoked: they need CRLs.
    """
    settings = load_config(config)
    token, ca = token_and_authority(settings, authority)
    if not settings.authorities[authority].retired:
        raise ConfigError(
            f"[authorities.{authority}] is in use; nothing was changed",
            hint="Make profiles name another CA, write retired = true there, and restart the daemon.",
        )
    issuer = read_chain(ca, ca_section(authority)).issuer
    valid = count_valid(section(settings.ledger, "ledger"), issuer.key_identifier, datetime.now(UTC))
    if valid.certificates:
        raise ConfigError(
            f"the CA {authority} has certificates that are still valid ({valid.certificates}), the last until"
            f" {show_time(valid.last)}; nothing was changed",
            hint="Wait until then, or revoke them: until then the CA must sign CRLs.",
        )
    confirm(f"Destroy the key {ca.key} of {issuer.subject_text} in {token.name} for good?", yes=yes)
    facts = destroy_key(token, ca, issuer)
    typer.echo(f"The key {ca.key} is destroyed.")
    made = {**certificate_fields(issuer.subject_text, issuer.certificate), "key": "DESTROYED"}
    write_record("ca retire", token, ca, facts, made, record, operators)
