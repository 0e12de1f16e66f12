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
from otahsm.system.confinement import drop_privileges, refuse_resources
from otahsm.system.hardening import harden
from otahsm.workers import frames
from otahsm.workers.frames import Kind

# Handles a request and returns the parts of its response, which are consumed in order while later requests
# arrive. A handler may do the work lazily, as the parts are consumed, or in its own threads.
Handler = Callable[[list[bytes]], Iterable[bytes]]

DAEMON_PID: Final = "OTAHSM_DAEMON_PID"  # environment variable: the daemon that started the worker

_PROGRESS_SECONDS: Final = 0.05
_LONGEST_BUSY: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_PDEATHSIG: Final = 2


_busy = Lock()  # held while the process must not exit


def run_worker(
    start: Callable[[list[bytes]], Handler], *, at_socket: bool = False, confined: bool = False
) -> None:
    """Handle requests until the daemon closes the pipe or socket. This is the main loop of a worker.

    Args:
        start: takes the parts of the daemon's setup message, gets ready (such as logging in) and returns the
            function that handles a request. An OtahsmError from either is sent to the daemon and ends the
            process: the state that a failed call leaves behind is never used again.
        at_socket: standard input and output are a socket, and the daemon at its other end is not the parent.
        confined: after `start`, give up everything but memory and the descriptors that are open.
    """
    source, sink = _take_over_standard_streams()
    harden()
    _leave_the_end_to_the_daemon(source if at_socket else None)
    answers: SimpleQueue[tuple[Kind, Iterable[bytes]]] = SimpleQueue()
    sender = Thread(target=_send_all, args=(answers, sink), daemon=True)
    try:
        handle = start(_receive(source))
        if confined:
            drop_privileges()
            if not at_socket:
                _die_with_the_daemon(ctypes.CDLL(None, use_errno=True))
        sender.start()
        if confined:
            refuse_resources()
        answers.put((Kind.READY, [b"%d" % os.getpid()]))
        while True:
            answers.put((Kind.RESPONSE, handle(_receive(source))))
    except OtahsmError as error:
        answers.put((Kind.ERROR, frames.encode_error(error)))
        if not sender.is_alive():
            sender.start()
        sender.join()
    except EOFError:
        sys.exit(0)  # the daemon is gone


def _send_all(answers: SimpleQueue[tuple[Kind, Iterable[bytes]]], sink: BinaryIO) -> None:
    """Send responses as they become complete; exit after an error, since the state is not usable then."""
    try:
        while True:
            kind, answer = answers.get()
            try:
                parts = list(_with_progress(answer, sink))
            except OtahsmError as error:
                kind, parts = Kind.ERROR, frames.encode_error(error)
            sink.write(frames.encode(kind, parts))
            sink.flush()
            if kind is Kind.ERROR:
                break
    except BrokenPipeError:
        pass  # the daemon is gone
    finally:
        os._exit(1)  # immediately: a thread may hang in the token


def _with_progress(answer: Iterable[bytes], sink: BinaryIO) -> Iterator[bytes]:
    """Report progress on a long request to the daemon, so that only a part that takes too long is a hang."""
    progress_at = time.monotonic()
    for part in answer:
        yield part
        if time.monotonic() - progress_at > _PROGRESS_SECONDS:
            sink.write(frames.encode(Kind.PROGRESS, ()))
            sink.flush()
            progress_at = time.monotonic()


def _take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Move the pipe to other descriptors: vendor libraries print to standard output."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return source, sink


def _leave_the_end_to_the_daemon(socket: BinaryIO | None) -> None:
    """Exit with the daemon, or with the connection to it, and not before."""
    if socket is None:
        _die_with_the_daemon(ctypes.CDLL(None, use_errno=True))
    else:
        Thread(target=_die_with_the_connection, args=(socket,), daemon=True).start()
    # Ctrl-C and systemd's SIGTERM go to every process of the service. Only the daemon decides when the last
    # request is done, and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def outliving_the_daemon(seconds: float) -> Iterator[None]:
    """Let the block finish even if the daemon is killed in the meantime; then exit.

    Interrupting an operation may damage a token: SoftHSM2 loses a token if it is killed during a login. A
    block that takes longer than `seconds`, or at a socket a minute, is killed anyway. In a process that is
    not a worker, this does nothing.
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
    """Exit when the daemon has closed its end, even while a thread hangs in the token."""
    poll = select.epoll()  # which needs no descriptor later, when the process may have none
    poll.register(socket, select.EPOLLRDHUP)
    poll.poll()
    _busy.acquire(timeout=_LONGEST_BUSY)
    os._exit(0)


def _die_with_the_daemon(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # If the daemon died before this line, no signal comes, and its messages are still in the pipe.
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
