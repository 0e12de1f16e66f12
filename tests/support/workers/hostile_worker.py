"""A worker that was taken over, and tries what a request names."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Final

from otahsm.workers.child import Handler, run_worker

FREE: Final = "OTAHSM_TEST_FREE"  # in the environment: nothing is forbidden

DEATH_SIGNAL: Final = "death signal"  # a request for the signal that the daemon's death sends

_PTRACE_ATTACH: Final = 16
_PR_GET_PDEATHSIG: Final = 2
_GIB: Final = 1024**3


def _forbidden(failed: int) -> None:
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _connect(argument: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(argument)


def _trace(pid: int) -> None:
    _forbidden(ctypes.CDLL(None, use_errno=True).ptrace(_PTRACE_ATTACH, pid, None, None))


def _append(argument: str) -> None:
    os.write(int(argument), b"more")


def _death_signal() -> int:
    number = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    return number.value


def _fork(_: str) -> None:
    if not os.fork():
        os._exit(0)


def _raise_a_limit(_: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _start_a_thread(_: str) -> None:
    Thread(target=int).start()


ATTEMPTS: Final[Mapping[str, Callable[[str], object]]] = {
    "open a file": lambda path: Path(path).read_bytes(),
    "make a file": lambda path: Path(path).with_name("new").write_bytes(b"new"),
    "write to a file that is open": _append,
    "make a socket": lambda _: socket.socket(socket.AF_INET),
    "make a pair of sockets": lambda _: socket.socketpair(),
    "connect to a socket": _connect,
    "double a descriptor": lambda _: os.dup(0),
    "fork": _fork,
    "run a program": lambda path: subprocess.run([path], check=True),
    "start a thread": _start_a_thread,
    "take 2 GiB": lambda _: mmap.mmap(-1, 2 * _GIB),
    "trace the daemon": lambda _: _trace(os.getppid()),
    "trace another worker": lambda pids: _trace(
        next(pid for pid in map(int, pids.split()) if pid != os.getpid())
    ),
    "become root": lambda _: os.setuid(0),
    "raise a limit": _raise_a_limit,
}


def attempt(parts: list[bytes]) -> list[bytes]:
    """Try something; return what came of it."""
    name, argument = (part.decode() for part in parts)
    if name == DEATH_SIGNAL:
        return [str(_death_signal()).encode()]
    try:
        ATTEMPTS[name](argument)
    except OSError as error:
        return [errno.errorcode[error.errno or 0].encode()]
    except (RuntimeError, ValueError) as error:
        return [f"{type(error).__name__} {error}".strip().encode()]
    return [b"done"]


def start(setup: list[bytes]) -> Handler:
    """Get ready: for whatever a request names."""
    del setup
    return attempt


if __name__ == "__main__":
    run_worker(start, confined=FREE not in os.environ)
