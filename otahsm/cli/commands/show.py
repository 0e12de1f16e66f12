"""`otahsm show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otahsm.cli.options import JsonOption
from otahsm.cli.output.fields import print_descriptions
from otahsm.pki.descriptions import describe
from otahsm.system.files import read_file


def show(
    file: Annotated[Path, typer.Argument(help="PEM (any number of certificates and CSRs) or DER (one).")],
    as_json: JsonOption = False,
) -> None:
    """Show a certificate, a chain or a CSR in readable form.

    \b
    Example:
      otahsm show devices/17/client.pem
    """  # noqa: D301 - click reads the character, not the escape
    print_descriptions(describe(read_file(file), str(file)), as_json=as_json)
