"""The worker's side of the pipe."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO, Final

from otahsm.errors import OtahsmError
from otahsm.workers import frames
from otahsm.workers.frames import Kind

Handler = Callable[[list[bytes]], Sequence[bytes]]

DAEMON_PID: Final = "OTAHSM_DAEMON_PID"  # in the environment: who the worker works for

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4


def run_worker(start: Callable[[list[bytes]], Handler]) -> None:
    """Serve batches until the daemon closes the pipe. This is a worker's whole life.

    Args:
        start: takes the daemon's setup parts, gets ready (logs in, say) and returns the function that
            answers a batch. An OtahsmError from either is told to the daemon and ends the process: what
            a failed call leaves behind is never used again.
    """
    source, sink = _take_over_standard_streams()
    _harden()
    try:
        handle = start(_receive(source))
        _send(sink, Kind.READY, ())
        while True:
            _send(sink, Kind.REPLY, handle(_receive(source)))
    except OtahsmError as error:
        _send(sink, Kind.ERROR, frames.encode_error(error))
        sys.exit(1)
    except (EOFError, BrokenPipeError):
        sys.exit(0)  # the daemon is gone


def _take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipe for ourselves: vendor libraries print to standard output."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return source, sink


def _harden() -> None:
    """Die with the daemon, leave no core dump with a PIN in it, and let nobody attach."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A daemon that died before this line sends no signal any more, and what it wrote is still in the pipe.
    if os.getppid() != int(os.environ[DAEMON_PID]):
        sys.exit(0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C and systemd's SIGTERM go to every process of the service; the daemon alone decides when the
    # last batch is done, and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _receive(source: BinaryIO) -> list[bytes]:
    header = source.read(frames.HEADER.size)
    if len(header) < frames.HEADER.size:
        raise EOFError
    _, length = frames.decode_header(header)
    body = source.read(length)
    if len(body) < length:
        raise EOFError
    return frames.decode_body(body)


def _send(sink: BinaryIO, kind: Kind, parts: Sequence[bytes]) -> None:
    sink.write(frames.encode(kind, parts))
    sink.flush()
