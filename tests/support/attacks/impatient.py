"""Runs a daemon whose time limits are seconds: `impatient.py NAME=SECONDS ... python -P -m otahsm serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from otahsm.cli import main
from otahsm.daemon.edge import limits

HERE: Final = Path(__file__)


def command(**seconds: float) -> tuple[str, ...]:
    """Return the command to run a daemon within."""
    return (sys.executable, "-P", str(HERE), *(f"{name}={value}" for name, value in seconds.items()))


if __name__ == "__main__":
    at = sys.argv.index("otahsm")
    for setting in (argument for argument in sys.argv[1:at] if "=" in argument):
        name, _, value = setting.partition("=")
        setattr(limits, name, type(getattr(limits, name))(float(value)))
    sys.argv = sys.argv[at:]
    main()
