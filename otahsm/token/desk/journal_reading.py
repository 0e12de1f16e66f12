"""Reads the signers' journal of a machine: what was signed there, and whether anything of it is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.errors import ConfigError
from otahsm.pki.serial import SerialNumber
from otahsm.system.clock import rfc3339
from otahsm.token.desk.certificates import AHEAD_OR_BEHIND
from otahsm.token.desk.journal import CUT_OFF, FOLDER, files_of

_REFUSAL: Final = re.compile(rb"^refused ([ -~]*)$", re.MULTILINE)
_SERIAL_DIGITS: Final = 40
_DIGEST_DIGITS: Final = 64
_MOST_FINDINGS: Final = 100
_CLOCK_STEPS: Final = 2.0  # seconds; a boot or a clock that was set differs by more


class SignedCertificate(NamedTuple):
    """A certificate that was signed: its serial number (20 octets), and the digest of its TBS (32)."""

    serial: bytes
    tbs_sha256: bytes


class SignedCrl(NamedTuple):
    """A CRL that was signed: the key identifier of its CA, number, digest of the TBS, and scope."""

    issuer_key_id: bytes
    number: int
    tbs_sha256: bytes
    scope: str


class SignedCheckpoint(NamedTuple):
    """A checkpoint that was signed."""

    size: int
    root: bytes
    origin: str


class Acceptance(NamedTuple):
    """`otahsm ledger accept`: the ledger may lack what was signed before."""

    reason: str


class Gap(NamedTuple):
    """A time in which entries may be missing, because the machine went down: from then until then."""

    begin: datetime
    end: datetime


class Finding(NamedTuple):
    """What is wrong with a journal, and where."""

    where: str
    what: str


Entry = SignedCertificate | SignedCrl | SignedCheckpoint | Acceptance


@dataclass
class MachineJournal:
    """The journal of one machine. Iterate `entries` once; after that the attributes are known.

    Args:
        folder: that of the journal, or the one above it.

    Attributes:
        is_whole: whether its first file is there.
        begins: when its first entry was written; None if that can't be told.
        ends: when it was last written to, or touched.
        gaps: when entries may be missing.
        refused: how often the signers refused since the last acceptance.
        last_refusal: when and why they did the last time; empty for never.
        begun: when and as what the memory of the signers was begun, as new or by joining a ledger.
        accepted: the times and reasons of `otahsm ledger accept`.
        findings: what is wrong with the files, at most 100.
        found: how much is wrong in all.

    Raises:
        ConfigError: there is no journal.
    """

    folder: Path
    is_whole: bool = True
    begins: datetime | None = None
    ends: datetime | None = None
    gaps: list[Gap] = field(default_factory=list)
    refused: int = 0
    last_refusal: str = ""
    begun: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    found: int = 0

    def __post_init__(self) -> None:
        if (self.folder / FOLDER).is_dir():
            self.folder = self.folder / FOLDER
        try:
            self._files = files_of(self.folder)
            if self._files:
                self.ends = datetime.fromtimestamp(self._files[-1].stat().st_mtime, UTC)
        except OSError as error:
            raise ConfigError(f"can't read the journal {self.folder}: {error.strerror}") from None
        if not self._files:
            raise ConfigError(
                f"there is no journal in {self.folder}",
                hint="It is signed/journal in [token] guard_dir of the machine where the signers run.",
            )
        self.is_whole = self._files[0].stem.lstrip("0") == "1"
        self._booted: datetime | None = None
        self._last: datetime | None = None  # the time of the latest entry that has one

    def newest(self, count: int) -> Sequence[Path]:
        """Return the newest files, the newest last."""
        return self._files[-count:]

    def entries(self) -> Iterator[Entry]:
        """Yield what was signed, in the order of the files. Raises ConfigError: a file can't be read."""
        digest = None
        for path in self._files:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ConfigError(f"can't read {path}: {error.strerror}") from None
            *lines, _ = content.decode("utf-8", "replace").split("\n")  # what has no end is being written
            yield from self._read(path, lines, digest)
            digest = self._close(path, content, is_last=path == self._files[-1])

    def _read(self, path: Path, lines: list[str], digest: str | None) -> Iterator[Entry]:
        expected = f"journal 1 {int(path.stem)} "
        first, *others = lines or [""]
        if not first.startswith(expected) or digest not in (None, first.removeprefix(expected)):
            self._find(path, 1, "the file does not follow the one before it: files were changed or removed")
        for number, line in enumerate(others, 2):
            if line.endswith(CUT_OFF):
                continue
            try:
                entry = self._entry(line)
            except (ValueError, RecursionError):
                self._find(path, number, f"this is no entry: {line[:80]!a}")
            else:
                if entry is not None:
                    yield entry

    def _entry(self, line: str) -> Entry | None:
        """Read a line; return it if it is a signature. Raises ValueError, RecursionError: it is no entry."""
        word, _, rest = line.partition(" ")
        match word:
            case "certificate":
                return self._certificate(rest)
            case "crl":
                issuer, number, digest, scope = rest.split(" ", 3)
                return SignedCrl(bytes.fromhex(issuer), int(number), _digest(digest), str(json.loads(scope)))
            case "checkpoint":
                size, root, origin = rest.split(" ")
                return SignedCheckpoint(int(size), _digest(root), origin)
            case "refused":
                self.refused, self.last_refusal = self.refused + 1, rest
            case "start":
                self._start(rest)
            case "begun" | "joined":
                self.begun.append(f"{word} {rest}")
            case "accepted":
                self.refused = 0
                self.accepted.append(rest)
                return Acceptance(rest)
            case "closed":
                pass
            case _:
                raise ValueError("no entry")
        return None

    def _certificate(self, rest: str) -> SignedCertificate:
        serial, digest = rest.split(" ")
        if len(serial) != _SERIAL_DIGITS:
            raise ValueError("no serial number")
        signed = SignedCertificate(bytes.fromhex(serial), _digest(digest))
        milliseconds = SerialNumber.from_key(signed.serial).milliseconds
        self._last = datetime.fromtimestamp(milliseconds / 1000, UTC)
        self.begins = self.begins or self._last
        return signed

    def _start(self, rest: str) -> None:
        """Read that a signer started: after a boot, entries of the last moments before may be missing."""
        time, seconds, _ = rest.split(" ")
        started = datetime.fromisoformat(time)
        booted = started - timedelta(seconds=float(seconds))
        if self._booted is not None and abs((booted - self._booted).total_seconds()) > _CLOCK_STEPS:
            self.gaps.append(Gap(min(self._last or started, started) - AHEAD_OR_BEHIND, started))
        self.begins = self.begins or started
        self._booted, self._last = booted, started

    def _close(self, path: Path, content: bytes, *, is_last: bool) -> str | None:
        """Check the digest that closes a file; return it."""
        before, _, closing = content.rstrip(b"\n").rpartition(b"\n")
        if closing.startswith(b"closed ") and is_last and files_of(self.folder)[-1] == path:
            self._find(path, content.count(b"\n"), "the file after it is missing")
        if not closing.startswith(b"closed "):
            if not is_last:
                self._find(path, content.count(b"\n"), "the file is not closed: its end was removed")
            return None
        digest = closing.removeprefix(b"closed ").decode("ascii", "replace")
        if sha256(before + b"\n").hexdigest() != digest:
            self._find(path, content.count(b"\n"), "the digest is another: the file was changed")
        return digest

    def _find(self, path: Path, line: int, what: str) -> None:
        self.found += 1
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(Finding(f"{path}, line {line}", what))


def _digest(digits: str) -> bytes:
    if len(digits) != _DIGEST_DIGITS:
        raise ValueError("no digest")
    return bytes.fromhex(digits)


def refusals_in(folder: Path, since: datetime) -> tuple[int, str]:
    """Count the refusals since a time in the two newest files, and return the last one.

    It reads fast, and does not say whether the files are whole: see `MachineJournal`.

    Raises:
        ConfigError: there is no journal, or it can't be read.
    """
    lines: list[bytes] = []
    try:
        for path in MachineJournal(folder).newest(2):
            lines += _REFUSAL.findall(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"can't read the journal {folder}: {error.strerror}") from None
    first = rfc3339(since).encode()
    recent = [line for line in lines if line >= first]  # times in UTC sort as texts do
    return len(recent), recent[-1].decode("ascii", "replace") if recent else ""
