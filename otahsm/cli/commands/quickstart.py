"""`otahsm quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.options import JsonOption
from otahsm.cli.output.fields import print_json_line
from otahsm.quickstart import create


def quickstart(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that doesn't exist yet, or is empty.")
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port that the daemon listens on.")] = 7443,
    as_json: JsonOption = False,
) -> None:
    """Set up all that a daemon on this machine needs: SoftHSM2 token, fleet root, TLS files, otahsm.toml.

    \b
    Example:
      otahsm quickstart fleet && cd fleet && otahsm serve
    """  # noqa: D301 - click reads the character, not the escape
    path = create(folder, port)
    if as_json:
        print_json_line({"folder": str(path.parent), "config": str(path)})
        return
    typer.echo(f"{path.parent} is ready:")
    typer.echo("  otahsm.toml   the configuration, every key explained")
    typer.echo("  token/        a SoftHSM2 token, the only place with the fleet root's key")
    typer.echo("  ca/           the fleet root's certificate, which gateways must trust")
    typer.echo("  ledger/       the public key to verify the ledger with")
    typer.echo("  tls/          an operator CA, and credentials for the daemon and one client")
    typer.echo("  gateway/      credentials of a stand-in gateway, to try devices with")
    typer.echo("Next:")
    typer.echo(f"  cd {folder}")
    typer.echo("  otahsm serve                       # in one terminal")
    typer.echo("  otahsm device issue --count 10     # in another")
