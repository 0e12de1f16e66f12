"""`otahsm ca show`."""

from __future__ import annotations

import typer

from otahsm.cli.commands.ca.options import CaOption, token_and_authority
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from otahsm.cli.output.failures import warn
from otahsm.cli.output.fields import print_descriptions, print_fields, print_json
from otahsm.cli.settings import load_config
from otahsm.config import ca_section
from otahsm.errors import ExitCode
from otahsm.pki.descriptions import describe
from otahsm.token.ceremony import inspect_key
from otahsm.token.files import read_chain


def show(as_json: JsonOption = False, ca_name: CaOption = "", config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Show the CA's chain, its key as the token reports it, and what the token can sign with.

    Logs in once and makes one signature to check that the key and the certificate belong together; exits
    with 4 if they don't.
    """
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
        warn(f"{flaw}: {why}; {accepted}.")
    if not report.matches_certificate:
        raise typer.Exit(ExitCode.OPERATOR)
