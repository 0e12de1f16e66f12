"""The `otahsm` command, also as `python -m otahsm`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Load the command and run it; Ctrl-C ends it quietly from the first moment on."""
    try:
        _hold_standard_streams()
        from otahsm.cli import main as run  # noqa: PLC0415 - takes 0.2 s

        run()
    except KeyboardInterrupt:
        sys.exit(130)


def _hold_standard_streams() -> None:
    """Open what is closed of standard input, output and error.

    The next files that are opened would take their numbers, and a device's key would get what a library
    writes to standard error. Input is at its end, output can't be written, and errors are lost.
    """
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)  # the lowest that is free
            os.set_inheritable(number, True)  # noqa: FBT003
            setattr(sys, name, os.fdopen(number, mode))


if __name__ == "__main__":
    main()
