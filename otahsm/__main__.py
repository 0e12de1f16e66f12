"""The `otahsm` command, also as `python -m otahsm`."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command and run it; Ctrl-C ends it quietly from the first moment on."""
    try:
        from otahsm.cli import main as run  # noqa: PLC0415 - takes 0.2 s

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
