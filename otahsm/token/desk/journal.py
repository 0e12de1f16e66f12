"""The signers' own journal: what they signed and refused, in files that only their user can write.

An entry is written before its signature leaves the process, and is on the disk about a second later. Files
are numbered; one that is full is closed by its digest, which the next one repeats. An entry is a line:

| line | |
| --- | --- |
| `journal 1 NUMBER DIGEST` | begins a file; the digest closes the file before, or is `-` |
| `start TIME SECONDS PID` | a signer started, so long after the boot of the machine |
| `certificate SERIAL SHA256` | signed: serial number, digest of the TBS |
| `crl ISSUER NUMBER SHA256 SCOPE` | signed: key identifier, CRL number, digest of the TBS, JSON string |
| `checkpoint SIZE ROOT ORIGIN` | signed |
| `refused TIME WHAT: WHY` | not signed |
| `begun TIME WHAT` | `otahsm ledger init-key`: nothing was signed that must be continued |
| `joined TIME WHAT` | `otahsm ledger join`: what was signed last is what the ledger has |
| `accepted TIME REASON` | `otahsm ledger accept`: the ledger may lack what was signed; `joined` follows |
| `closed DIGEST` | ends a file: SHA-256 of everything before this line |

A line that ends with U+0018 was cut off: whoever wrote it was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from otahsm.errors import TokenUnavailableError
from otahsm.system.clock import rfc3339, utc_now
from otahsm.system.durable import create_file, make_durable, make_folder, open_beside
from otahsm.templates import plain
from otahsm.token.desk.memory import explained_write

FOLDER: Final = "journal"
SUFFIX: Final = ".log"
NOTHING: Final = "-"  # the digest of no file
CUT_OFF: Final = "\x18"  # in no entry: what is said there is printable

_LOCK: Final = "lock"
_MOST_OCTETS: Final = 64 * 1024 * 1024
_FLUSH_SECONDS: Final = 1.0
_MOST_SAID: Final = 500


class Journal:
    """Appends to the journal. Any number of processes may, each with an object of its own.

    Args:
        folder: of the signers; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._descriptor: int | None = None
        self._path = self._folder
        self._one_at_a_time = threading.Lock()
        self._flushing: threading.Timer | None = None

    def start(self) -> None:
        """Write that a signer started. Raises TokenUnavailableError."""
        self.append([f"start {rfc3339(utc_now())} {_since_boot():.3f} {os.getpid()}"])

    def touch(self) -> None:
        """Show that the journal is kept, though there is nothing to write."""
        with self._one_at_a_time, contextlib.suppress(OSError):
            if self._descriptor is not None:
                os.utime(self._descriptor)

    def append(self, lines: Sequence[str]) -> None:
        """Write lines; they are on the disk a little later. Raises TokenUnavailableError."""
        if not lines:
            return
        content = "".join(f"{line}\n" for line in lines).encode()
        with self._one_at_a_time, explained_write(self._folder), self._locked():
            descriptor = self._open()
            if os.fstat(descriptor).st_size > _MOST_OCTETS:
                descriptor = self._begin_another(descriptor)
            _write_all(descriptor, content)
            self._flush_soon()

    def flush(self) -> None:
        """Have everything on the disk. Raises TokenUnavailableError."""
        with self._one_at_a_time, explained_write(self._folder):
            if self._descriptor is not None:
                make_durable([self._path])

    def _flush_soon(self) -> None:
        """Have what was written on the disk a second later, in one flush, while the token signs more."""
        if self._flushing is None:
            self._flushing = threading.Timer(_FLUSH_SECONDS, self._flush_now)
            self._flushing.daemon = True
            self._flushing.start()

    def _flush_now(self) -> None:
        self._flushing = None
        with contextlib.suppress(TokenUnavailableError):  # the next entry can't be written, and says so
            self.flush()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self._folder, 0o700)
        lock = open_beside(self._folder / _LOCK, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open(self) -> int:
        """Return the descriptor of the last file, which another process may have begun meanwhile."""
        numbered = files_of(self._folder)
        path = numbered[-1] if numbered else self._create(1, NOTHING)
        if self._descriptor is None or not _is_same(self._descriptor, path):
            self._use(path)
        assert self._descriptor is not None  # noqa: S101 - for mypy
        _end_the_last_line(self._descriptor)
        return self._descriptor

    def _create(self, number: int, digest: str) -> Path:
        path = self._folder / f"{number:08}{SUFFIX}"
        create_file(path, f"journal 1 {number} {digest}\n".encode(), 0o600)
        return path

    def _begin_another(self, descriptor: int) -> int:
        digest = sha256(self._path.read_bytes()).hexdigest()
        _write_all(descriptor, f"closed {digest}\n".encode())
        make_durable([self._path])
        return self._use(self._create(int(self._path.stem) + 1, digest))

    def _use(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._path, self._descriptor = path, descriptor
        return descriptor


def files_of(folder: Path) -> list[Path]:
    """Return the files of a journal, the oldest first. Raises OSError."""
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.stem.isdigit())


def one_line(text: str) -> str:
    """Return a text as it may be in a line: printable, and not long."""
    return plain(text[:_MOST_SAID]).encode("ascii", "backslashreplace").decode()[:_MOST_SAID]


def _since_boot() -> float:
    """Return the seconds since the machine's boot. The units of deploy/ hide what /proc says of it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_same(descriptor: int, path: Path) -> bool:
    """Return whether a file is still the one that has this name: it may have been moved and put back."""
    opened, named = os.fstat(descriptor), path.stat()
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def _write_all(descriptor: int, content: bytes) -> None:
    """Write all of it or, on a disk that is full, nothing."""
    before = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(28, os.strerror(28))  # noqa: TRY301 - ENOSPC
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before)
        raise


def _end_the_last_line(descriptor: int) -> None:
    """End a line whose writer was killed; none of its signatures has left the process."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        _write_all(descriptor, f"{CUT_OFF}\n".encode())
