"""The worker's side of the pipe."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Lock, Thread
from typing import BinaryIO, Final

from otahsm.errors import OtahsmError
from otahsm.system.hardening import harden
from otahsm.workers import frames
from otahsm.workers.frames import Kind

# Starts work on a batch and returns its answers. They are taken, in order, while later batches come in: a
# handler may do the work as they are taken, or in threads of its own, and return what waits for them.
Handler = Callable[[list[bytes]], Iterable[bytes]]

DAEMON_PID: Final = "OTAHSM_DAEMON_PID"  # in the environment: who the worker works for

_PROGRESS_SECONDS: Final = 0.05
_LONGEST_BUSY: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_PDEATHSIG: Final = 2


_busy = Lock()  # held while the process must not end


def run_worker(start: Callable[[list[bytes]], Handler], *, at_socket: bool = False) -> None:
    """Serve batches until the daemon closes the pipe or socket. This is a worker's whole life.

    Args:
        start: takes the daemon's setup parts, gets ready (logs in, say) and returns the function that
            answers a batch. An OtahsmError from either is told to the daemon and ends the process: what
            a failed call leaves behind is never used again.
        at_socket: the daemon is no parent, but at the other end of the socket that standard input and
            output are.
    """
    source, sink = _take_over_standard_streams()
    harden()
    _leave_the_end_to_the_daemon(source if at_socket else None)
    answers: SimpleQueue[tuple[Kind, Iterable[bytes]]] = SimpleQueue()
    sender = Thread(target=_send_all, args=(answers, sink), daemon=True)
    sender.start()
    try:
        handle = start(_receive(source))
        answers.put((Kind.READY, [b"%d" % os.getpid()]))
        while True:
            answers.put((Kind.REPLY, handle(_receive(source))))
    except OtahsmError as error:
        answers.put((Kind.ERROR, frames.encode_error(error)))
        sender.join()
    except EOFError:
        sys.exit(0)  # the daemon is gone


def _send_all(answers: SimpleQueue[tuple[Kind, Iterable[bytes]]], sink: BinaryIO) -> None:
    """Send answers as they get complete, and end the process after an error: what it left can't be used."""
    try:
        while True:
            kind, answer = answers.get()
            try:
                parts = list(_telling_progress(answer, sink))
            except OtahsmError as error:
                kind, parts = Kind.ERROR, frames.encode_error(error)
            sink.write(frames.encode(kind, parts))
            sink.flush()
            if kind is Kind.ERROR:
                break
    except BrokenPipeError:
        pass  # the daemon is gone
    finally:
        os._exit(1)  # at once: a thread may hang in the token


def _telling_progress(answer: Iterable[bytes], sink: BinaryIO) -> Iterator[bytes]:
    """Let the daemon know that a batch which takes long gets on: a single part that takes long is a hang."""
    progress_at = time.monotonic()
    for part in answer:
        yield part
        if time.monotonic() - progress_at > _PROGRESS_SECONDS:
            sink.write(frames.encode(Kind.PROGRESS, ()))
            sink.flush()
            progress_at = time.monotonic()


def _take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipe for ourselves: vendor libraries print to standard output."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return source, sink


def _leave_the_end_to_the_daemon(socket: BinaryIO | None) -> None:
    """Die with the daemon, or with the connection to it, and not before."""
    if socket is None:
        _die_with_the_daemon(ctypes.CDLL(None, use_errno=True))
    else:
        Thread(target=_die_with_the_connection, args=(socket,), daemon=True).start()
    # Ctrl-C and systemd's SIGTERM go to every process of the service; the daemon alone decides when the
    # last batch is done, and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def outliving_the_daemon(seconds: float) -> Iterator[None]:
    """Let the block come to its end even if the daemon is killed meanwhile; then end the worker.

    What a token is told half may break it: SoftHSM2 loses a token whose login is killed. A block that takes
    longer than `seconds`, or at a socket a minute, is killed all the same. In a process that is no worker,
    this does nothing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    death_signal = ctypes.c_int(0)
    libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(death_signal), 0, 0, 0)
    if not death_signal.value:
        with _busy:
            yield
        return
    libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # nobody handles SIGALRM: it kills
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _die_with_the_daemon(libc)


def _die_with_the_connection(socket: BinaryIO) -> None:
    """End the process when the daemon has closed its end, also while a thread hangs in the token."""
    poll = select.poll()
    poll.register(socket, select.POLLRDHUP)
    poll.poll()
    _busy.acquire(timeout=_LONGEST_BUSY)
    os._exit(0)


def _die_with_the_daemon(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A daemon that died before this line sends no signal any more, and what it wrote is still in the pipe.
    if os.getppid() != int(os.environ[DAEMON_PID]):
        sys.exit(0)


def _receive(source: BinaryIO) -> list[bytes]:
    header = frames.decode_header(_exactly(source, frames.HEADER.size))
    return frames.decode_body(header, _exactly(source, header.length))


def _exactly(source: BinaryIO, length: int) -> bytes:
    octets = source.read(length)
    if len(octets) < length:
        raise EOFError
    return octets
