"""The `otahsm` command.

`main` finds the command in the table of `commands`, whose modules parse, call and print. How they print and
write is in `output`.
"""

from __future__ import annotations

from otahsm.cli.main import main

__all__ = ["main"]
