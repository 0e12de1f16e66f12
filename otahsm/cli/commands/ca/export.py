"""`otahsm ca export`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from asn1crypto import pem

from otahsm.cli.commands.ca.options import CaOption, authority_section
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, OutputOption
from otahsm.cli.output.files import write_output
from otahsm.cli.settings import load_config
from otahsm.config import ca_section
from otahsm.token.files import read_chain


def export(
    what: Annotated[
        Literal["anchor", "chain", "certificate"],
        typer.Argument(
            help="anchor: the root, for gateways. certificate: the one that signs devices. chain: all."
        ),
    ] = "anchor",
    output: OutputOption = None,
    ca_name: CaOption = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write the CA's certificates as PEM: the trust anchor, the chain, or the one that signs. Never a key."""
    chain = read_chain(authority_section(load_config(config), ca_name), ca_section(ca_name))
    certificates = {
        "anchor": (chain.trust_anchor,),
        "certificate": (chain.issuer.certificate,),
        "chain": chain.certificates,
    }[what]
    write_output(output, b"".join(pem.armor("CERTIFICATE", der) for der in certificates))
