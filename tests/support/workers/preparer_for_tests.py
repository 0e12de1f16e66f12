"""A preparer that certain CSRs take over, as one that finds a flaw of the parser could.

A CSR that begins with `DEADLY` kills it. `lying` makes one for which it returns what it is told to.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Final

from otahsm.preparation.preparer import start as start_real
from otahsm.workers.child import Handler, run_worker

DEADLY: Final = b"a CSR that breaks the parser"
_LYING: Final = b"a CSR that takes the parser over: "


def lying(answer: Sequence[bytes]) -> bytes:
    """Make a CSR for which such a preparer returns these parts."""
    return _LYING + b" ".join(part.hex().encode() for part in answer)


def start(setup: list[bytes]) -> Handler:
    handle = start_real(setup)

    def fragile(parts: list[bytes]) -> list[bytes]:
        answers: list[bytes] = []
        for at in range(0, len(parts), 3):
            csr = parts[at + 2]
            if csr.startswith(DEADLY):
                os.kill(os.getpid(), signal.SIGKILL)
            if csr.startswith(_LYING):
                answers += map(bytes.fromhex, csr.removeprefix(_LYING).decode().split())
            else:
                answers += handle(parts[at : at + 3])
        return answers

    return fragile


if __name__ == "__main__":
    run_worker(start)
