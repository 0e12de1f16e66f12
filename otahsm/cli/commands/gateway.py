"""`otahsm gateway`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from otahsm.cli.options import JsonOption
from otahsm.cli.output.fields import print_fields, print_json, printable
from otahsm.cli.output.times import show_time
from otahsm.errors import ConfigError
from otahsm.gateway.files import write_gateway
from otahsm.gateway.trust import Gateway, Trust, find_gateway

CredentialsOption = Annotated[Path | None, typer.Option(help="The account's credentials.zip.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help="The gateway: host (the port is then 8000), host:port, or an https URL. Default: the one in"
        " --credentials."
    ),
]
FingerprintOption = Annotated[
    str | None,
    typer.Option(
        metavar="sha256:HEX",
        help="The fingerprint of the gateway's CA; accept the CA with it that the gateway presents.",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", help="A PEM file; accept the CA in it that the gateway's certificate is from."),
]
ConnectOption = Annotated[
    bool, typer.Option("--connect", help="Connect to the gateway even if --credentials has everything.")
]


def show(
    credentials: CredentialsOption = None,
    url: UrlOption = None,
    fingerprint: FingerprintOption = None,
    ca: CaOption = None,
    connect: ConnectOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a gateway's address and CA, from a credentials.zip or as the gateway presents them.

    What a gateway presents is verified against --ca, --fingerprint or the CA in --credentials. With --url
    alone it is not verified: compare the fingerprint with one that you got another way.

    Exit codes: 0 success, 1 the gateway is not the right one, 2 wrong use or a wrong file, 3 can't reach the
    gateway.

    \b
    Examples:
      otahsm gateway show --credentials credentials.zip
      otahsm gateway show --url gateway.example.com:8000
    """  # noqa: D301 - click reads the character, not the escape
    unverified = not (credentials or fingerprint or ca)
    found = find_gateway(
        datetime.now(UTC),
        credentials=credentials,
        url=url,
        trust=_one_trust(Trust(fingerprint, ca, first_use=unverified and url is not None)),
        connect=connect,
    )
    facts = _facts(found, unverified=unverified)
    if as_json:
        print_json(facts)
    else:
        print_fields("Gateway", _words(facts))


def fetch(
    credentials: CredentialsOption = None,
    url: UrlOption = None,
    fingerprint: FingerprintOption = None,
    ca: CaOption = None,
    trust_on_first_use: Annotated[
        bool,
        typer.Option(
            "--trust-on-first-use",
            help="Accept any CA that the gateway presents. Devices will trust it.",
        ),
    ] = False,
    connect: ConnectOption = False,
    out: Annotated[
        Path, typer.Option("--output", "-o", "--out", help="The folder to write root.crt and gateway.url to.")
    ] = Path("gateway"),
    replace: Annotated[bool, typer.Option("--replace", help="Replace files that differ.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write what devices need from the gateway: its CA as root.crt, and its address as gateway.url.

    With --credentials alone, both come from the archive. Nothing else leaves it: no device may have the build
    server's keys and passwords. With --url, --fingerprint, --ca or --connect, otahsm connects to the gateway,
    which must present a certificate for its host that a device with this CA accepts.

    Exit codes: 0 success, 1 the gateway is not the right one, 2 wrong use, a wrong file or folder, 3 can't
    reach the gateway.

    \b
    Examples:
      otahsm gateway fetch --credentials credentials.zip --connect
      otahsm gateway fetch --url gateway.example.com --fingerprint sha256:5f0c...
      otahsm gateway fetch --url https://gateway.example.com:30443 --ca server_ca.pem -o gateway
    """  # noqa: D301 - click reads the character, not the escape
    found = find_gateway(
        datetime.now(UTC),
        credentials=credentials,
        url=url,
        trust=_one_trust(Trust(fingerprint, ca, trust_on_first_use)),
        connect=connect,
    )
    if found.ca is None:
        raise ConfigError(
            f"{credentials} does not contain the gateway's CA",
            hint="Get it from the gateway: give --fingerprint or --ca.",
        )
    if trust_on_first_use:
        typer.secho(
            f"TRUSTED ON FIRST USE: nothing but {found.url.endpoint} itself says that it is your gateway.\n"
            f"  CA           {printable(found.ca.subject)}\n"
            f"  fingerprint  {found.ca.fingerprint}\n"
            "Before any device gets this CA, compare the fingerprint with the gateway's operator.",
            err=True,
            fg=typer.colors.RED,
            bold=True,
        )
    written = write_gateway(out, found.url, found.ca, replace=replace)
    if as_json:
        print_json(
            {
                **_facts(found, unverified=trust_on_first_use),
                "folder": str(out),
                "written": [path.name for path in written],
            }
        )
        return
    typer.echo(f"{out / 'root.crt'}: {printable(found.ca.subject)}, {found.ca.fingerprint}")
    typer.echo(f"{out / 'gateway.url'}: {found.url}")
    if not written:
        typer.echo("Both were already there.")


def _one_trust(trust: Trust) -> Trust:
    if sum((trust.fingerprint is not None, trust.authorities is not None, trust.first_use)) > 1:
        raise typer.BadParameter("give one of --fingerprint, --ca and --trust-on-first-use")
    return trust


def _facts(found: Gateway, *, unverified: bool) -> dict[str, Any]:
    """Return what was found, for JSON."""
    ca = None
    if found.ca is not None:
        certificate = found.ca.certificate
        ca = {
            "subject": found.ca.subject,
            "fingerprint": found.ca.fingerprint,
            "valid_from": certificate.not_valid_before_utc,
            "valid_until": certificate.not_valid_after_utc,
            "source": found.ca.source,
            "verified": not unverified,
            "left_out": list(found.ca.left_out),
        }
    return {
        "url": str(found.url),
        "host": found.url.host,
        "port": found.url.port,
        "connected": found.connected,
        "ca": ca,
        "stays_here": list(found.stays_here),
    }


def _words(facts: dict[str, Any]) -> dict[str, str]:
    """Return the same for a person."""
    ca = facts["ca"]
    words = {"url": facts["url"], "host": facts["host"], "port": str(facts["port"])}
    if ca is None:
        words["CA"] = "not in the archive: get it from the gateway, with --fingerprint or --ca"
    else:
        words["CA"] = ca["subject"]
        words["SHA-256"] = ca["fingerprint"]
        words["valid"] = f"from {show_time(ca['valid_from'])} until {show_time(ca['valid_until'])}"
        words["source"] = ca["source"]
        if not ca["verified"]:
            words["source"] += ": NOT VERIFIED, compare the fingerprint"
    words["gateway"] = (
        "connected; a device with this CA accepts it" if facts["connected"] else "not contacted"
    )
    for number, line in enumerate(ca["left_out"] if ca else (), 1):
        words[f"left out {number}"] = line
    if facts["stays_here"]:
        words["stays here"] = ", ".join(facts["stays_here"])
    return words
