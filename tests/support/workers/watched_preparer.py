"""A preparer that reports what it opens once it is ready: `python -m support.workers.watched_preparer`.

It takes a setup message and a request on standard input, and prints a line for each file.
"""

from __future__ import annotations

import sys

from otahsm.preparation.preparer import start
from otahsm.workers.child import _receive


def main() -> None:
    """Get ready, then handle the request."""
    opened: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in {"open", "socket.__new__", "ctypes.dlopen"}:
            opened.append(f"{event} {arguments[0]}")

    sys.addaudithook(watch)
    handle = start(_receive(sys.stdin.buffer))
    request = _receive(sys.stdin.buffer)
    watching = True
    answers = list(handle(request))
    watching = False
    print(len(answers), *opened, sep="\n")  # noqa: T201 - to the test


if __name__ == "__main__":
    main()
