"""One line an event: for people on a terminal, as JSON otherwise."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final, TextIO

import structlog

_LAST_WORDS: Final = 1.0  # seconds that the end of the daemon waits for lines still in the pipe

_log = structlog.get_logger()


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Log to standard error while the block runs.

    Where that is no terminal, all that comes out of it is JSON: what gRPC's core, vendor libraries and
    dying workers print to standard error becomes events of the name "stderr", a line each.
    """
    if sys.stderr.isatty():
        _configure(structlog.dev.ConsoleRenderer(), sys.stderr)
        yield
        return
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1) as real:
        _configure(structlog.processors.JSONRenderer(), real)
        source, sink = os.pipe()
        os.dup2(sink, sys.stderr.fileno())
        os.close(sink)
        relay = threading.Thread(target=_relay, args=(source,), daemon=True)
        relay.start()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real.fileno(), sys.stderr.fileno())  # and so the pipe ends, when the last worker has
            relay.join(_LAST_WORDS)


def _configure(renderer: structlog.typing.Processor, file: TextIO) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file),
    )


def _relay(source: int) -> None:
    with os.fdopen(source, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _log.info("stderr", text=line.rstrip())
