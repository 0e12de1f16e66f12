"""`otahsm ca`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otahsm.cli.ceremony import (
    AnswersOption,
    CaOption,
    OperatorsOption,
    RecordOption,
    authority_section,
    certificate_fields,
    token_and_authority,
    write_record,
)
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, KeyTypeName

if TYPE_CHECKING:
    from datetime import datetime

    from otahsm.config import CaConfig, TokenConfig
    from otahsm.pki import KeyType, RootKind
    from otahsm.token.ceremony import Made

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The fleet CA: its key in the token, and its certificate.",
)


@app.callback()
def _before_each() -> None:
    """Protect the process: most of these commands learn the PIN."""
    from otahsm.system.hardening import harden

    harden()


class RootKindName(StrEnum):
    """Kinds of root, as choices on the command line."""

    ROOT = "root"
    ROOT_HERE = "root-here"


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The root's common name, 1 to 64 characters.")] = "Fleet root",
    key_type: Annotated[KeyTypeName, typer.Option(help="Type of the CA key.")] = KeyTypeName.EC_P256,
    days: Annotated[int, typer.Option(min=1, max=36525, help="How long the root is valid.")] = 7300,
    kind: Annotated[
        RootKindName,
        typer.Option(
            help="root: every verifier takes it. root-here: the OTA Connect guide's, to the letter."
        ),
    ] = RootKindName.ROOT,
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
    operators: OperatorsOption = None,
    record: RecordOption = None,
    answers: AnswersOption = None,
) -> None:
    """Make the CA key pair in the token, and its self-signed root certificate.

    Uses [token] and [ca] of the configuration. Refuses if the key's label or id exists in the token, or the
    certificate's file exists.
    """
    from datetime import UTC, datetime

    from otahsm.config import ca_section, load_config

    del answers
    now = datetime.now(UTC)
    token, ca = token_and_authority(load_config(config), ca_name)
    root = make_root(
        token,
        ca,
        ca_section(ca_name),
        key_type=key_type.value,
        common_name=name,
        now=now,
        days=days,
        kind=kind.value,
        if_exists="Move it away if the CA is really to be a new one.",
    )
    typer.echo(f"The key is {ca.key} in {token.name}; the certificate is {ca.certificate}.")
    made = certificate_fields(f"CN={name}", root.der)
    write_record("ca init", record, ca.certificate, operators, root.facts, now, made, token.guard_dir)
    if kind is RootKindName.ROOT_HERE:
        typer.secho(
            "WARNING: a root of kind root-here has extendedKeyUsage serverAuth. A gateway that verifies with"
            " OpenSSL (nginx, for one) will refuse EVERY device under it. Use it only for a gateway that"
            " insists on it.",
            fg=typer.colors.RED,
            err=True,
        )


def make_root(
    token: TokenConfig,
    ca: CaConfig,
    section: str,
    *,
    key_type: KeyType,
    common_name: str,
    now: datetime,
    days: int,
    kind: RootKind,
    if_exists: str,
) -> Made:
    """Make a CA's key pair and its self-signed root as `create_root` does, write the root, and show it.

    Args:
        token: where the key is to be.
        ca: the CA's section.
        section: the section's name, for errors.
        key_type: as the following, of `create_root`.
        common_name: the root's.
        now: when the root begins to be valid.
        days: how long it is.
        kind: of the root.
        if_exists: what to do if there is a certificate already.

    Raises:
        OtahsmError: there is one; or as `create_root` and `write_certificate`.
    """
    from otahsm.cli.tables import print_descriptions
    from otahsm.errors import ConfigError
    from otahsm.pki import describe
    from otahsm.token.ceremony import MAX_NAME, create_root
    from otahsm.token.files import write_certificate

    if not 1 <= len(common_name) <= MAX_NAME:
        raise typer.BadParameter(f"--name takes 1 to {MAX_NAME} characters")
    if ca.certificate.exists():
        raise ConfigError(
            f"[{section}] certificate {ca.certificate} exists; nothing was changed", hint=if_exists
        )
    root = create_root(token, ca, key_type=key_type, common_name=common_name, now=now, days=days, kind=kind)
    write_certificate(ca.certificate, root.der)
    print_descriptions(describe(root.der), as_json=False)
    return root


@app.command()
def show(as_json: JsonOption = False, ca_name: CaOption = "", config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Show the CA's chain, its key as the token reports it, and what the token can sign with.

    Logs in once and makes one signature, to see whether key and certificate belong together; exits with 4
    if they don't.
    """
    from otahsm.cli.tables import print_descriptions, print_fields, print_json
    from otahsm.config import ca_section, load_config
    from otahsm.errors import ExitCode
    from otahsm.pki import describe
    from otahsm.token.ceremony import inspect_key
    from otahsm.token.files import read_chain

    token, ca = token_and_authority(load_config(config), ca_name)
    section = ca_section(ca_name)
    chain = read_chain(ca, section)
    shown = [item for der in chain.certificates for item in describe(der)]
    report = inspect_key(token, ca, chain.issuer)
    key = {
        "token": str(report.facts.token),
        "key": str(ca.key),
        "type": chain.issuer.key_type,
        "belongs to the certificate": "yes" if report.matches_certificate else "NO",
        "the token can sign with": ", ".join(report.mechanisms),
    }
    if as_json:
        described = [{"kind": item.title, **item.fields} for item in shown]
        print_json({"chain": described, "key": key, "attributes": report.facts.attributes})
    else:
        print_descriptions(shown, as_json=False)
        print_fields("Key in the token", key)
        print_fields("Attributes, as the token claims them", report.facts.attributes)
    for flaw, why in report.facts.flaws.items():
        accepted = f"accepted in [{section}]" if flaw in ca.accept else "the daemon will refuse it"
        typer.secho(f"WARNING, {flaw}: {why}; {accepted}.", fg=typer.colors.RED, err=True)
    if not report.matches_certificate:
        raise typer.Exit(ExitCode.OPERATOR)


class ExportKind(StrEnum):
    """What can be exported, as choices on the command line."""

    ANCHOR = "anchor"
    CHAIN = "chain"
    CERTIFICATE = "certificate"


@app.command()
def export(
    what: Annotated[
        ExportKind,
        typer.Argument(
            help="anchor: the root, for gateways. certificate: what signs devices. chain: all of them."
        ),
    ] = ExportKind.ANCHOR,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write. Default: standard output.")
    ] = None,
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write the CA's certificates as PEM: the trust anchor, the chain, or the one that signs. Never a key."""
    from asn1crypto import pem

    from otahsm.cli.files import write_new
    from otahsm.config import ca_section, load_config
    from otahsm.token.files import read_chain

    chain = read_chain(authority_section(load_config(config), ca_name), ca_section(ca_name))
    certificates = {
        ExportKind.ANCHOR: (chain.trust_anchor,),
        ExportKind.CERTIFICATE: (chain.issuer.certificate,),
        ExportKind.CHAIN: chain.certificates,
    }[what]
    text = "".join(pem.armor("CERTIFICATE", der).decode() for der in certificates)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_new(output, [text])
