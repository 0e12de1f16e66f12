"""A preparer that a certain CSR kills, as a CSR that breaks the parser would."""

from __future__ import annotations

import os
import signal

from otahsm.preparation.preparer import start as start_real
from otahsm.workers.child import Handler, run_worker

DEADLY = b"a CSR that breaks the parser"


def start(setup: list[bytes]) -> Handler:
    handle = start_real(setup)

    def fragile(parts: list[bytes]) -> list[bytes]:
        if DEADLY in parts:
            os.kill(os.getpid(), signal.SIGKILL)
        return list(handle(parts))

    return fragile


if __name__ == "__main__":
    run_worker(start)
