"""Reads the signers' journal of a machine: what was signed there, and whether anything of it is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from otahsm.errors import ConfigError
from otahsm.pki.serial import SerialNumber
from otahsm.token.desk.certificates import AHEAD_OR_BEHIND
from otahsm.token.desk.journal import CUT_OFF, FOLDER, NOTHING, files_of

_SERIAL_DIGITS: Final = 40
_DIGEST_DIGITS: Final = 64
_MOST_FINDINGS: Final = 20


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


class Gap(NamedTuple):
    """A time in which entries may be missing, because the machine went down: from then until then."""

    begin: datetime
    end: datetime


class Finding(NamedTuple):
    """What is wrong with a journal, and where."""

    where: str
    what: str


Signed = SignedCertificate | SignedCrl | SignedCheckpoint


@dataclass
class MachineJournal:
    """The journal of one machine. Iterate `entries` once; after that the attributes are known.

    Args:
        folder: that of the journal, or the one above it.
        only_newest: whether the newest file is enough.

    Attributes:
        begins: when its first entry was written; None if that can't be told.
        ends: when its newest file was last changed.
        gaps: when entries may be missing.
        refused: how often the signers refused, and the last time why.
        accepted: the reasons of `otahsm ledger accept`.
        findings: what is wrong with the files, at most 20.

    Raises:
        ConfigError: there is no journal.
    """

    folder: Path
    only_newest: bool = False
    begins: datetime | None = None
    ends: datetime | None = None
    gaps: list[Gap] = field(default_factory=list)
    refused: int = 0
    last_refusal: str = ""
    accepted: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.folder / FOLDER).is_dir():
            self.folder = self.folder / FOLDER
        try:
            self._files = files_of(self.folder)[-1 if self.only_newest else 0 :]
            if self._files:
                self.ends = datetime.fromtimestamp(self._files[-1].stat().st_mtime, UTC)
        except OSError as error:
            raise ConfigError(f"can't read the journal {self.folder}: {error.strerror}") from None
        if not self._files:
            raise ConfigError(
                f"there is no journal in {self.folder}",
                hint="It is signed/journal in [token] guard_dir of the machine where the signers run.",
            )
        self._boot = ""
        self._last = datetime.fromtimestamp(0, UTC)  # the latest time of an entry

    def entries(self) -> Iterator[Signed]:
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

    def _read(self, path: Path, lines: list[str], digest: str | None) -> Iterator[Signed]:
        expected = f"journal 1 {int(path.stem)} "
        if not lines[0].startswith(expected) or digest not in (None, lines[0].removeprefix(expected)):
            self._find(path, 1, "the file does not follow the one before it: files were changed or removed")
        for number, line in enumerate(lines[1:], 2):
            if line.endswith(CUT_OFF):
                continue
            try:
                signed = self._entry(line)
            except (ValueError, RecursionError):
                self._find(path, number, f"this is no entry: {line[:80]!a}")
            else:
                if signed is not None:
                    yield signed

    def _entry(self, line: str) -> Signed | None:
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
            case "accepted":
                self.accepted.append(rest)
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
        self._last = max(self._last, datetime.fromtimestamp(milliseconds / 1000, UTC))
        return signed

    def _start(self, rest: str) -> None:
        time, boot, _ = rest.split(" ")
        started = datetime.fromisoformat(time)
        if self.begins is None:
            self.begins = started
        elif boot != self._boot or boot == NOTHING:
            self.gaps.append(Gap(self._last - AHEAD_OR_BEHIND, started))
        self._boot, self._last = boot, max(self._last, started)

    def _close(self, path: Path, content: bytes, *, is_last: bool) -> str | None:
        """Check the digest that closes a file; return it."""
        before, _, closing = content.rstrip(b"\n").rpartition(b"\n")
        if not closing.startswith(b"closed "):
            if not is_last:
                self._find(path, content.count(b"\n"), "the file is not closed: its end was removed")
            return None
        digest = closing.removeprefix(b"closed ").decode("ascii", "replace")
        if sha256(before + b"\n").hexdigest() != digest:
            self._find(path, content.count(b"\n"), "the digest is another: the file was changed")
        return digest

    def _find(self, path: Path, line: int, what: str) -> None:
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(Finding(f"{path}, line {line}", what))


def _digest(digits: str) -> bytes:
    if len(digits) != _DIGEST_DIGITS:
        raise ValueError("no digest")
    return bytes.fromhex(digits)
