"""A worker that does what its batch says: `python -m support.workers.worker_for_tests`."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from otahsm.errors import TokenRefusedError, TokenUnavailableError
from otahsm.workers.child import Handler, run_worker

PR_GET_DUMPABLE = 3


def start(setup: list[bytes]) -> Handler:
    (mode,) = setup
    mode, _, path = mode.partition(b":")
    if mode == b"refuse" or (mode == b"refuse-until" and not Path(os.fsdecode(path)).exists()):
        raise TokenRefusedError("no, and don't ask again", hint="ask an operator")
    if mode == b"fail-alone" and not Path(os.fsdecode(path), "enough").exists():
        start_alone(Path(os.fsdecode(path)))
    return answer


def start_alone(folder: Path) -> NoReturn:
    """Take so long that another, started meanwhile, would be seen; then fail, and say whether one was."""
    mine = folder / str(os.getpid())
    mine.touch()
    time.sleep(0.1)
    others = [path for path in folder.iterdir() if path != mine]
    mine.unlink()
    raise TokenUnavailableError(f"there were {len(others)} others" if others else "I was alone")


def answer(parts: list[bytes]) -> Iterable[bytes]:
    if b"slowly" in parts:
        return map(slowly, parts)
    return at_once(parts)


def slowly(part: bytes) -> bytes:
    time.sleep(3600 if part == b"hang" else 0.1)
    return part


def at_once(parts: list[bytes]) -> list[bytes]:
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
