"""`otahsm crl`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from asn1crypto import pem as armour

from otahsm.cli.connect import ask
from otahsm.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, PatienceOption
from otahsm.cli.output.fields import print_fields, print_json, print_outcome
from otahsm.client import Client, FetchedCrl
from otahsm.pki.chain import load_issuer
from otahsm.pki.crls.reading import check_crl_signature, describe_crl
from otahsm.system.durable import explained, replace_file
from otahsm.system.files import read_file
from otahsm.templates import counted

UrlOption = Annotated[str, typer.Option(help="The CRL at this URL, as a certificate names it.")]
ShardOption = Annotated[
    int | None, typer.Option(min=0, max=4095, help="A shard of the current configuration.")
]
AuthoritiesOption = Annotated[
    bool, typer.Option("--authorities", help="The CRL of CA certificates, which goes with shards.")
]
CaOption = Annotated[
    str, typer.Option("--ca", help="The CA whose CRL it is. Default: the one in the daemon's [ca].")
]


def show(
    file: Annotated[Path | None, typer.Argument(help="A CRL, in DER or PEM.")] = None,
    from_daemon: Annotated[
        bool, typer.Option("--from-daemon", help="Show the daemon's CRL instead.")
    ] = False,
    url: UrlOption = "",
    shard: ShardOption = None,
    authorities: AuthoritiesOption = False,
    ca: CaOption = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show a CRL from a file, of any CA, or from the daemon.

    The signature of the daemon's CRL is checked; that of a file is not.

    \b
    Examples:
      otahsm crl show crl/fleet.crl
      otahsm crl show --from-daemon
    """  # noqa: D301 - click reads the character, not the escape
    if (file is None) != from_daemon:
        raise typer.BadParameter("give either a file or --from-daemon")
    if file is not None and (url or authorities or ca or shard is not None):
        raise typer.BadParameter("--url, --shard, --authorities and --ca need --from-daemon")
    if file is not None:
        content = read_file(file)
    else:
        content = _fetch(config, patience, ca, url, shard, authorities).der
    description = describe_crl(content, str(file or "this"))
    scope = "complete"
    if description.distribution_point or description.only_devices:
        scope = f"devices whose certificate names {description.distribution_point or 'no URL'}"
    elif description.only_authorities:
        scope = "CA certificates only"
    fields: dict[str, str | datetime] = {
        "issuer": description.issuer,
        "number": "none" if description.number is None else str(description.number),
        "this update": description.this_update,
        "next update": description.next_update or "none",
        "scope": scope,
        "issuer's key identifier": description.key_identifier.hex(":")
        if description.key_identifier
        else "none",
        "revoked certificates": str(description.revoked),
    }
    if as_json:
        print_json({"kind": "CRL", **fields})
    else:
        print_fields("Certificate revocation list", fields)


def fetch(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file to write. If it exists, it is replaced as a whole."),
    ],
    pem: Annotated[bool, typer.Option("--pem", help="Write PEM, for nginx, instead of DER.")] = False,
    url: UrlOption = "",
    shard: ShardOption = None,
    authorities: AuthoritiesOption = False,
    ca: CaOption = "",
    patience: PatienceOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Fetch a CRL from the daemon, by default the complete one, check its signature and write it to a file.

    \b
    Examples:
      otahsm crl fetch --output /etc/nginx/fleet-crl.pem --pem
    """  # noqa: D301 - click reads the character, not the escape
    crl = _fetch(config, patience, ca, url, shard, authorities)
    with explained():
        replace_file(output, armour.armor("X509 CRL", crl.der) if pem else crl.der)
    print_outcome(
        f"CRL number {crl.number} with {counted(crl.revoked, 'certificate')}: {output}",
        as_json=as_json,
        file=str(output),
        number=crl.number,
        revoked=crl.revoked,
    )


def _fetch(
    config: Path, patience: float | None, ca: str, url: str, shard: int | None, authorities: bool
) -> FetchedCrl:
    """Fetch a CRL, and check that the daemon's CA signed it, which leads to [client] fleet_ca."""
    if sum((bool(url), shard is not None, authorities)) > 1:
        raise typer.BadParameter("give at most one of --url, --shard and --authorities")

    async def fetch(client: Client) -> FetchedCrl:
        authority = await client.issuance.authority(ca)
        client.issuance.check_authority(authority)
        crl = await client.revocation.crl(url=url, shard=shard, authorities=authorities, ca=ca)
        signer = next(iter(authority.chain), authority.trust_anchor)
        check_crl_signature(crl.der, load_issuer(signer))
        return crl

    return ask(config, patience, fetch)
