"""What starts in place of a preparer, tries what a preparer must not be able to do, and logs what came of it.

A program of its own, with nothing of otahsm's. Its argument is the instance of its unit, which has the
daemon's process id in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

PTRACE_ATTACH = 16
CLONE_NEWUSER = 0x10000000


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _attempts(daemon: int) -> dict[str, Callable[[], object]]:
    return {
        "read the configuration": lambda: Path("/etc/otahsm/otahsm.toml").read_bytes(),
        "read users": lambda: Path("/etc/passwd").read_bytes(),
        "see the ledger": lambda: list(Path("/var/lib/otahsm").iterdir()),
        "see sockets": Path("/run/otahsm/signer.sock").stat,
        "see a home folder": lambda: list(Path("/root").iterdir()),
        "see the daemon": Path(f"/proc/{daemon}").stat,
        "write beside programs": lambda: Path("/usr/local/lib/new").write_bytes(b""),
        "write to /tmp": lambda: Path("/tmp/new").write_bytes(b""),  # noqa: S108 - it is not there
        "write to shared memory": lambda: Path("/dev/shm/new").write_bytes(b""),  # noqa: S108 - the same
        "make a socket": lambda: socket.socket(socket.AF_UNIX),
        "make a socket of the network": lambda: socket.socket(socket.AF_INET),
        "kill the daemon": lambda: os.kill(daemon, signal.SIGKILL),
        "trace the daemon": lambda: _call("ptrace", PTRACE_ATTACH, daemon, 0, 0),
        "make a namespace": lambda: _call("unshare", CLONE_NEWUSER),
        "become root": lambda: os.setuid(0),
    }


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "done"


if __name__ == "__main__":
    attempts = _attempts(int(sys.argv[1].split("-")[1]))
    outcomes = {name: _outcome(attempt) for name, attempt in attempts.items()}
    sys.stderr.write(json.dumps({"event": "outcomes", "user": os.getuid(), **outcomes}) + "\n")
