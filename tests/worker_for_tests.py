"""A worker that does what its batch says: `python -m worker_for_tests`."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

from otahsm.errors import TokenRefusedError, TokenUnavailableError
from otahsm.workers import run_worker
from otahsm.workers.child import Handler

PR_GET_DUMPABLE = 3


def start(setup: list[bytes]) -> Handler:
    (mode,) = setup
    if mode == b"refuse":
        raise TokenRefusedError("no, and don't ask again", hint="ask an operator")
    return answer


def answer(parts: list[bytes]) -> list[bytes]:
    for part in parts:
        match part.partition(b":"):
            case b"die", _, _:
                os.kill(os.getpid(), signal.SIGKILL)
            case b"die-once", _, marker:
                # The first process to see it dies of it, the next one does not.
                try:
                    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
            case b"hang", _, _:
                time.sleep(3600)
            case b"print", _, _:
                print("a vendor's library prints to standard output")  # noqa: T201
                sys.stdout.flush()
            case b"garbage", _, _:
                os.write(_pipe(), b"\xff" * 64)
            case b"hardened", _, _:
                dumpable = ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
                return [f"{dumpable} {resource.getrlimit(resource.RLIMIT_CORE)}".encode()]
            case b"error", _, _:
                raise TokenUnavailableError("the token sulks", hint="wait")
    return [str(os.getpid()).encode(), *parts]


def _pipe() -> int:
    """Find the pipe to the daemon: the highest descriptor."""
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.exists())


if __name__ == "__main__":
    run_worker(start)
