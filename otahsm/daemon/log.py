"""One line an event: for people on a terminal, as JSON otherwise."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final, TextIO, cast

import structlog

from otahsm.daemon.edge import limits

# What any client can cause as often as it likes, and what changes nothing: a flood of these must not hide
# the others, nor fill a disk. What was issued, revoked, reset or ordered is always said.
_AT_WILL: Final = frozenset({"call.refused", "requests.refused", "stderr", "stream.ended", "stream.stalled"})
_LONGEST_LINE: Final = 8192  # characters of standard error in one event
_LAST_WORDS: Final = 1.0  # seconds that the end of the daemon waits for lines still in the pipe

_log = structlog.get_logger()


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Log to standard error while the block runs.

    Where that is no terminal, all that comes out of it is JSON: what gRPC's core, vendor libraries and
    dying workers print to standard error becomes events of the name "stderr", a line each.
    """
    if sys.stderr.isatty():
        _configure(structlog.dev.ConsoleRenderer(), _Lines(sys.stderr.fileno()))
        yield
        return
    real = os.dup(sys.stderr.fileno())
    _configure(structlog.processors.JSONRenderer(), _Lines(real))
    source, sink = os.pipe()
    os.dup2(sink, sys.stderr.fileno())
    os.close(sink)
    relay = threading.Thread(target=_relay, args=(source,), daemon=True)
    relay.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, sys.stderr.fileno())  # and so the pipe ends, when the last worker has
        relay.join(_LAST_WORDS)


class _Lines(io.TextIOBase):
    """Writes lines, unless they can't be written: a log that is full, or that nobody reads, stops nothing.

    Args:
        descriptor: where to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write a line at once; nothing of it is kept if that fails."""
        octets = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while octets:
                octets = octets[os.write(self._descriptor, octets) :]
        return len(text)


class Bounded:
    """Lets through so many lines of each event that clients can cause at will; a processor of structlog's.

    The next line that gets through says how many did not.
    """

    def __init__(self) -> None:
        self._left: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def __call__(self, _: object, __: str, said: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Pass an event on, or drop it."""
        event = said["event"]
        if event not in _AT_WILL:
            return said
        now = time.monotonic()
        earned = (now - self._since.get(event, now)) * limits.LOG_LINES_A_SECOND
        left = min(self._left.get(event, limits.LOG_BURST) + earned, limits.LOG_BURST)
        self._since[event] = now
        if left < 1:
            self._left[event] = left
            self._suppressed[event] = self._suppressed.get(event, 0) + 1
            raise structlog.DropEvent
        self._left[event] = left - 1
        if suppressed := self._suppressed.pop(event, 0):
            said["suppressed"] = suppressed
        return said


def _configure(renderer: structlog.typing.Processor, lines: _Lines) -> None:
    structlog.configure(
        processors=[
            Bounded(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, lines)),
    )


def _relay(source: int) -> None:
    with os.fdopen(source, encoding="utf-8", errors="replace") as lines:
        while line := lines.readline(_LONGEST_LINE):  # a library that never ends a line must not fill memory
            _log.info("stderr", text=line.rstrip())
