"""A preparer that certain CSRs take over, as one that finds a flaw of the parser could.

A CSR that begins with `DEADLY` kills it, and `ENDLESS` keeps it busy for ever. `SLOW` takes half of the
processor time that it has for a task. `lying` makes one for which it returns what it is told to.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Final
from unittest import mock

from otahsm.pki.certificate import Binding
from otahsm.pki.csr import check_csr
from otahsm.pki.profile import Profile
from otahsm.preparation import preparer
from otahsm.system import confinement
from otahsm.workers.child import Handler, run_worker

DEADLY: Final = b"a CSR that breaks the parser"
ENDLESS: Final = b"a CSR that the parser never comes to the end of"
SLOW: Final = b"a CSR that the parser takes long for"
_SECONDS: Final = 0.5  # of processor time, for a task
_LYING: Final = b"a CSR that takes the parser over: "


def lying(answer: Sequence[bytes]) -> bytes:
    """Make a CSR for which such a preparer returns these parts."""
    return _LYING + b" ".join(part.hex().encode() for part in answer)


def start(setup: list[bytes]) -> Handler:
    handle = preparer.start(setup)

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


def check(csr: bytes, profile: Profile, device_id: str) -> Binding:
    """Check a CSR, as slowly as it says."""
    began = time.process_time()
    while csr == ENDLESS or (csr == SLOW and time.process_time() - began < _SECONDS / 2):
        pass
    return check_csr(csr, profile, device_id)


if __name__ == "__main__":
    with (
        mock.patch.object(preparer, "check_csr", check),
        mock.patch.object(confinement, "_SECONDS_A_TASK", _SECONDS),
    ):
        run_worker(start, confined=True)
