"""Checkpoints SQLite's write-ahead log in the background, so that the writer need not wait for it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Final

_EVERY: Final = 8000  # certificates: about half of what fills the log


class Checkpointer:
    """Runs checkpoints in its own thread.

    In a large ledger every certificate changes different pages, which must be copied from the log to random
    places in the file. This takes longer than the commits. A passive checkpoint does it without blocking the
    writer. The writer's own checkpoint, at `PRAGMA wal_autocheckpoint` pages, then has little left to do, and
    resets the log; so the log stays bounded.

    Args:
        path: the ledger's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def wrote(self, certificates: int) -> None:
        """Note the number of certificates that were recorded."""
        self._written += certificates
        if self._written >= _EVERY:
            self._written = 0
            self._due.set()

    def close(self) -> None:
        """Stop the thread, and wait for it."""
        self._ended = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._ended:
                return
            # Disk errors are reported by the writer, which sees them too.
            with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(self._path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
