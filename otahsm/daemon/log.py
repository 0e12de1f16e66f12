"""Logging, one line per event: human-readable on a terminal, otherwise JSON."""

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

# Events that any client can cause at any rate, and that change nothing: a flood of these must not hide
# others, nor fill the disk. Issuance, revocations, resets and new batches are always logged.
_AT_WILL: Final = frozenset({"call.refused", "requests.refused", "stderr", "stream.ended", "stream.stalled"})
_LONGEST_LINE: Final = 8192  # characters of standard error per event
_LAST_WORDS: Final = 1.0  # seconds to wait at exit for lines that are still in the pipe

_log = structlog.get_logger()


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Log to standard error while the block runs.

    If that is not a terminal, all output is JSON: whatever gRPC's core, vendor libraries and dying workers
    print to standard error becomes events named "stderr", one per line.
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
        os.dup2(real, sys.stderr.fileno())  # closes the pipe, once the last worker has exited
        relay.join(_LAST_WORDS)


class _Lines(io.TextIOBase):
    """Writes lines, and ignores errors: a log that is full, or that nobody reads, must not stop the daemon.

    Args:
        descriptor: the file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write a line immediately; drop it if that fails."""
        octets = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while octets:
                octets = octets[os.write(self._descriptor, octets) :]
        return len(text)


class Bounded:
    """A structlog processor that limits the rate of each event that clients can cause at will.

    The next line of an event has the number of suppressed ones.
    """

    def __init__(self) -> None:
        self._left: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def __call__(self, _: object, __: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Return an event, or drop it."""
        event = fields["event"]
        if event not in _AT_WILL:
            return fields
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
            fields["suppressed"] = suppressed
        return fields


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
        while line := lines.readline(_LONGEST_LINE):  # limited: output without line ends must not fill memory
            _log.info("stderr", text=line.rstrip())
