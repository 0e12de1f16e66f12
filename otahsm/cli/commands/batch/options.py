"""Options that commands of `otahsm batch` share."""

from __future__ import annotations

from typing import Annotated

import typer

NameArgument = Annotated[str, typer.Argument(help="The batch's name.")]
