"""A signer whose clock is as far from the right time as a file says, in seconds."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from otahsm.system.clock import utc_now
from otahsm.token.signer import start as start_real
from otahsm.workers.child import Handler, run_worker

OFFSET = "OTAHSM_TEST_CLOCK_OFFSET"  # environment variable: the file


def start(setup: list[bytes]) -> Handler:
    path = Path(os.environ[OFFSET])

    def clock() -> datetime:
        return utc_now() + timedelta(seconds=float(path.read_text()))

    return start_real(setup, clock)


if __name__ == "__main__":
    run_worker(start)
