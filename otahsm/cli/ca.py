"""`otahsm ca`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otahsm.cli.ceremony import AnswersOption, CaOption, OperatorsOption, RecordOption, authority_section
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, KeyTypeName

if TYPE_CHECKING:
    from otahsm.config import CaConfig

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The fleet CA: its key in the token, and its certificate.",
)


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

    from otahsm.cli.ceremony import fingerprint, write_record
    from otahsm.cli.tables import print_descriptions
    from otahsm.config import load_config, section
    from otahsm.errors import ConfigError
    from otahsm.pki import describe
    from otahsm.token.ceremony import MAX_ROOT_NAME, create_root
    from otahsm.token.files import write_certificate

    del answers
    now = datetime.now(UTC)
    settings = load_config(config)
    token, ca = section(settings.token, "token"), authority_section(settings, ca_name)
    if not 1 <= len(name) <= MAX_ROOT_NAME:
        raise typer.BadParameter(f"--name takes 1 to {MAX_ROOT_NAME} characters")
    if ca.certificate.exists():
        raise ConfigError(
            f"[ca] certificate {ca.certificate} exists; nothing was changed",
            hint="Move it away if the CA is really to be a new one.",
        )
    root = create_root(
        token,
        ca,
        key_type=key_type.value,
        common_name=name,
        now=now,
        days=days,
        kind=kind.value,
    )
    write_certificate(ca.certificate, root.der)
    print_descriptions(describe(root.der), as_json=False)
    typer.echo(f"The key is {ca.key} in {token.name}; the certificate is {ca.certificate}.")
    made = {"certificate": f"CN={name}", "certificate, SHA-256": fingerprint(root.der)}
    write_record("ca init", record, ca.certificate, operators, root.facts, now, made)
    if kind is RootKindName.ROOT_HERE:
        typer.secho(
            "WARNING: a root of kind root-here has extendedKeyUsage serverAuth. A gateway that verifies with"
            " OpenSSL (nginx, for one) will refuse EVERY device under it. Use it only for a gateway that"
            " insists on it.",
            fg=typer.colors.RED,
            err=True,
        )


@app.command()
def show(as_json: JsonOption = False, ca_name: CaOption = "", config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Show the CA's chain, its key as the token reports it, and what the token can sign with.

    Logs in once and makes one signature, to see whether key and certificate belong together; exits with 4
    if they don't.
    """
    from otahsm.cli.tables import print_descriptions, print_fields, print_json
    from otahsm.config import load_config, section
    from otahsm.errors import ExitCode
    from otahsm.pki import describe, load_chain
    from otahsm.token.ceremony import inspect_key

    settings = load_config(config)
    token, ca = section(settings.token, "token"), authority_section(settings, ca_name)
    pem = read_chain(ca)
    issuer = load_chain(pem, pss=ca.signs_with_pss).issuer
    report = inspect_key(token, ca, issuer)
    key = {
        "token": str(report.facts.token),
        "key": str(ca.key),
        "type": issuer.key_type,
        "belongs to the certificate": "yes" if report.matches_certificate else "NO",
        "the token can sign with": ", ".join(report.mechanisms),
    }
    if as_json:
        chain = [{"kind": item.title, **item.fields} for item in describe(pem)]
        print_json({"chain": chain, "key": key, "attributes": report.facts.attributes})
    else:
        print_descriptions(describe(pem), as_json=False)
        print_fields("Key in the token", key)
        print_fields("Attributes, as the token claims them", report.facts.attributes)
    for flaw, why in report.facts.flaws.items():
        accepted = "accepted in [ca]" if flaw in ca.accept else "the daemon will refuse it"
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
    from otahsm.config import load_config
    from otahsm.pki import load_chain

    ca = authority_section(load_config(config), ca_name)
    chain = load_chain(read_chain(ca))
    certificates = {
        ExportKind.ANCHOR: [chain.trust_anchor],
        ExportKind.CERTIFICATE: [chain.issuer.certificate],
        ExportKind.CHAIN: [*chain.intermediates, chain.trust_anchor],
    }[what]
    text = "".join(pem.armor("CERTIFICATE", der).decode() for der in certificates)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_new(output, [text])


def read_chain(ca: CaConfig) -> bytes:
    """Read the CA's certificates. Raises ConfigError."""
    from otahsm.errors import ConfigError

    try:
        return ca.certificate.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"[ca] certificate {ca.certificate} can't be read: {error.strerror}",
            hint="Make the CA with `otahsm ca init`, or `otahsm ca csr` and `otahsm ca import`.",
        ) from None
