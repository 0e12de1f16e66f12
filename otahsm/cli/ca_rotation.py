"""`otahsm ca rotate` and `retire`: a new CA beside the old one, and the end of the old one."""

from __future__ import annotations

from typing import Annotated

import typer

from otahsm.cli.ca import read_chain
from otahsm.cli.ceremony import (
    AnswersOption,
    OperatorsOption,
    RecordOption,
    YesOption,
    authority_section,
    confirm,
    fingerprint,
    write_record,
)
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, KeyTypeName

app = typer.Typer()

NameArgument = Annotated[str, typer.Argument(help="NAME of the section [authorities.NAME].", metavar="NAME")]


@app.command()
def rotate(
    authority: NameArgument,
    name: Annotated[str, typer.Option(help="The new root's common name, 1 to 64 characters.")] = "",
    key_type: Annotated[
        KeyTypeName | None, typer.Option(help="Type of the new CA's key. Default: as that of [ca].")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=36525, help="How long the root is valid.")] = 7300,
    config: ConfigOption = DEFAULT_CONFIG,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    answers: AnswersOption = None,
) -> None:
    """Make the next CA, beside the one of [ca]: a key pair in the token, and a self-signed root certificate.

    Write [authorities.NAME] first, with the new key's URI, the file of the certificate, and a crl of its own.
    Then both CAs are active: each profile says with `ca` which one issues, and each signs its own CRLs. For a
    CA below an external root, use `ca csr --ca NAME` and `ca import --ca NAME` instead.
    """
    from datetime import UTC, datetime

    from otahsm.cli.tables import print_descriptions
    from otahsm.config import load_config, section
    from otahsm.errors import ConfigError
    from otahsm.pki import describe, load_chain
    from otahsm.token.ceremony import MAX_ROOT_NAME, create_root
    from otahsm.token.files import write_certificate

    del answers
    now = datetime.now(UTC)
    settings = load_config(config)
    token, old = section(settings.token, "token"), section(settings.ca, "ca")
    new = authority_section(settings, authority)
    issuer = load_chain(read_chain(old), pss=old.signs_with_pss).issuer
    common_name = name or f"{issuer.subject_text.removeprefix('CN=')} {authority}"
    if not 1 <= len(common_name) <= MAX_ROOT_NAME:
        raise typer.BadParameter(f"--name takes 1 to {MAX_ROOT_NAME} characters")
    if new.certificate.exists():
        raise ConfigError(
            f"[authorities.{authority}] certificate {new.certificate} exists; nothing was changed",
            hint="Take another name for the new CA.",
        )
    root = create_root(
        token,
        new,
        key_type=key_type.value if key_type else issuer.key_type,
        common_name=common_name,
        now=now,
        days=days,
        kind="root",
    )
    write_certificate(new.certificate, root.der)
    print_descriptions(describe(root.der), as_json=False)
    typer.echo(
        f"The key is {new.key} in {token.name}; the certificate is {new.certificate}. Next:\n"
        f"  1. Have every gateway trust it, too: otahsm ca export anchor --ca {authority}\n"
        f'  2. Write ca = "{authority}" into the profiles that it is to issue, and restart the daemon.\n'
        "  3. When the last certificate of the old CA has ended: otahsm ca retire"
    )
    made = {
        "certificate": f"CN={common_name}",
        "certificate, SHA-256": fingerprint(root.der),
        "beside": issuer.subject_text,
        "beside, SHA-256": fingerprint(issuer.certificate),
    }
    write_record("ca rotate", record, new.certificate, operators, root.facts, now, made)


@app.command()
def retire(
    authority: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    answers: AnswersOption = None,
) -> None:
    """Destroy the key of a CA that is no longer needed. There is no way back.

    A CA in [ca] is moved to [authorities.NAME] first. The section stays, for its certificates are in the
    ledger, and says retired = true: write that before, and restart every daemon that has it. Refuses while
    certificates of the CA are valid and not revoked: they need CRLs.
    """
    from datetime import UTC, datetime

    from otahsm.config import load_config, section
    from otahsm.errors import ConfigError
    from otahsm.ledger import count_valid
    from otahsm.pki import load_chain
    from otahsm.token.ceremony import destroy_key

    del answers
    now = datetime.now(UTC)
    settings = load_config(config)
    token, ca = section(settings.token, "token"), authority_section(settings, authority)
    if not settings.authorities[authority].retired:
        raise ConfigError(
            f"[authorities.{authority}] is in use; nothing was changed",
            hint="Let profiles name another CA, write retired = true there, and restart the daemon.",
        )
    issuer = load_chain(read_chain(ca), pss=ca.signs_with_pss).issuer
    valid = count_valid(section(settings.ledger, "ledger"), issuer.key_identifier, now)
    if valid.certificates:
        raise ConfigError(
            f"{valid.certificates} certificates of the CA {authority} are valid, the last until"
            f" {valid.last:%Y-%m-%d %H:%M:%S} UTC; nothing was changed",
            hint="Wait for that, or revoke them: until then its CRL must be signed anew.",
        )
    confirm(f"Destroy the key {ca.key} of {issuer.subject_text} in {token.name}, for ever?", yes=yes)
    facts = destroy_key(token, ca, issuer)
    typer.echo(f"The key {ca.key} is destroyed.")
    made = {
        "certificate": issuer.subject_text,
        "certificate, SHA-256": fingerprint(issuer.certificate),
        "key": "DESTROYED",
    }
    write_record("ca retire", record, ca.certificate, operators, facts, now, made)
