"""Compares the ledger with what signers say that they signed, both ways.

What was signed must be in the ledger: a certificate as an intent, void or not. What the ledger holds must
have been signed, if it is of a time that the signers' journals cover.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import Connection, bindparam, select

from otahsm.errors import EvidenceError
from otahsm.ledger.schema import certificates, checkpoints, crl_numbers, crl_urls, crls, intents
from otahsm.ledger.tree.proofs import prove, read_head
from otahsm.ledger.tree.verdict import MAX_FINDINGS, Verdict
from otahsm.pki.crls.distribution import AUTHORITIES, BACKDATED, COMPLETE
from otahsm.pki.der import children
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import Checkpoint, consistency_proof, parse_note, verify_consistency

_CHUNK: Final = 1000
_END: Final = b"\xff" * 21  # after every serial number
_SECOND: Final = 1_000_000
_SMALLER: Final = "the ledger's tree is smaller: rows were removed, or an older copy was restored"


class Period(NamedTuple):
    """A time, in microseconds since the Unix epoch: from `begin` on, before `end`."""

    begin: int
    end: int


class SignedList(NamedTuple):
    """A CRL that was signed: the key identifier of its CA, number, digest of the TBS, and scope."""

    issuer_key_id: bytes
    number: int
    tbs_sha256: bytes
    scope: str


class Signatures:
    """What signers say that they signed. Certificates are kept in a temporary file.

    Attributes:
        certificates: how many there are.
        crls: the CRLs.
        checkpoints: each with the number of leaves, and the root.
        accepted: the CRLs and checkpoints that an operator has accepted to be lost.
    """

    def __init__(self) -> None:
        self.certificates = 0
        self.crls: list[SignedList] = []
        self.checkpoints: set[tuple[int, bytes]] = set()
        self.accepted: set[SignedList | tuple[int, bytes]] = set()
        self._database = sqlite3.connect("")  # a file without a name, which is gone when it is closed
        self._database.execute(
            "CREATE TABLE signed (serial BLOB, digest BLOB, machine INTEGER, accepted INTEGER,"
            " PRIMARY KEY (serial, digest)) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget everything."""
        self._database.close()

    def add_certificate(self, serial: bytes, tbs_sha256: bytes, machine: int = 0) -> None:
        """Add a certificate: its serial number (20 octets), and the digest of its TBS (32 octets)."""
        row = (serial, tbs_sha256, machine)
        cursor = self._database.execute("INSERT OR IGNORE INTO signed VALUES (?, ?, ?, 0)", row)
        self.certificates += cursor.rowcount

    def accept(self, machine: int, others: Iterable[SignedList | tuple[int, bytes]]) -> None:
        """Accept that what a machine has signed so far may be missing in the ledger."""
        self._database.execute("UPDATE signed SET accepted = 1 WHERE machine = ?", (machine,))
        self.accepted.update(others)

    def in_order(self) -> Iterator[tuple[bytes, bytes, bool]]:
        """Yield the certificates by serial number, and whether it is accepted that they are lost."""
        yield from self._database.execute("SELECT serial, digest, accepted FROM signed ORDER BY 1, 2")


@dataclass
class Comparison:
    """The result of a comparison.

    Attributes:
        lost: what was signed before `otahsm ledger accept`, and the ledger does not have: at most 100 names.
        lost_count: how much that is.
        void: certificates that were signed, and whose intents are void: at most 100 serial numbers.
        void_count: how many that are.
        in_gaps: certificates and CRLs that no journal has, of times of which entries may be missing.
        not_covered: certificates and CRLs of the ledger's of times that the journals do not cover.
        older_crls: CRLs that were signed, and which the ledger has replaced by newer ones since.
    """

    lost: list[str] = field(default_factory=list)
    lost_count: int = 0
    void: list[str] = field(default_factory=list)
    void_count: int = 0
    in_gaps: int = 0
    not_covered: int = 0
    older_crls: int = 0

    def lose(self, name: str) -> None:
        """Note what was signed, and is accepted to be lost."""
        self.lost_count += 1
        if len(self.lost) < MAX_FINDINGS:
            self.lost.append(name)

    def note_void(self, serial: bytes) -> None:
        """Note a certificate that was signed and voided."""
        self.void_count += 1
        if len(self.void) < MAX_FINDINGS:
            self.void.append(serial.hex())


def compare_signatures(
    connection: Connection,
    signed: Signatures,
    covered: Period,
    gaps: Sequence[Period],
    verdict: Verdict,
) -> Comparison:
    """Compare a ledger with what was signed, and add what does not match to a verdict.

    Args:
        connection: from `snapshot`, opened after the journals were read.
        signed: what the journals of all machines have.
        covered: the time of which the journals have every signature.
        gaps: times within it of which some may be missing.
        verdict: takes the findings.
    """
    run = _Run(connection, signed, covered, gaps, verdict)
    run.compare_certificates()
    run.compare_crls()
    run.compare_checkpoints()
    return run.result


class _Run:
    """One comparison."""

    def __init__(
        self,
        connection: Connection,
        signed: Signatures,
        covered: Period,
        gaps: Sequence[Period],
        verdict: Verdict,
    ) -> None:
        self._connection = connection
        self._signed = signed
        self._covered = covered
        self._gaps = gaps
        self._verdict = verdict
        self.result = Comparison()

    def compare_certificates(self) -> None:
        """Walk through both in the order of serial numbers."""
        rows = _Ahead(_intents(self._connection))
        for serial, digest, accepted in chain(self._signed.in_order(), [(_END, b"", False)]):
            while (row := rows.peek()) is not None and bytes(row.serial) < serial:
                self._miss(rows.take())
            if serial == _END:
                return
            name = f"certificate {serial.hex()}"
            if row is not None and bytes(row.serial) == serial and row.tbs_sha256 == digest:
                rows.found = True
                if row.void_reason is not None:
                    self.result.note_void(serial)
            elif accepted:
                self.result.lose(name)
            elif row is None or bytes(row.serial) != serial:
                self._verdict.find(name, "it was signed, and the ledger has no intent for it")
            else:
                what = "another certificate with this serial number was signed than was journalled"
                self._verdict.find(name, what)

    def _miss(self, row: Any) -> None:
        """Look at an intent that no journal has; None if one has it."""
        if row is None or row.recorded_at is None:
            return  # or it was never released
        intended_at = 1000 * SerialNumber.from_key(bytes(row.serial)).milliseconds
        self._miss_what(
            f"certificate {bytes(row.serial).hex()}",
            Period(intended_at, max(row.recorded_at, intended_at + 1)),
        )

    def _miss_what(self, name: str, when: Period) -> None:
        """Judge that no journal has something, which was made within a period."""
        if when.begin < self._covered.begin or when.end > self._covered.end:
            self.result.not_covered += 1
        elif any(when.begin < gap.end and gap.begin < when.end for gap in self._gaps):
            self.result.in_gaps += 1
        else:
            self._verdict.find(name, "the ledger has it, and no journal says that it was signed")

    def compare_crls(self) -> None:
        """Compare CRLs with the last one of each scope, and with the numbers that were taken."""
        taken = {
            bytes(row.issuer_key_id): row.number for row in self._connection.execute(select(crl_numbers))
        }
        kept = {(bytes(row.issuer_key_id), row.url): row for row in self._connection.execute(select(crls))}
        urls = {(bytes(row.issuer_key_id), row.url) for row in self._connection.execute(select(crl_urls))}
        digests = {key: _tbs_digest(bytes(row.der)) for key, row in kept.items()}
        for crl in self._signed.crls:
            issuer, number, digest, scope = crl
            row = kept.get((issuer, scope))
            if number > taken.get(issuer, 0):
                self._find_crl(crl, "it was signed, and the ledger has not taken that number")
            elif row is None and (issuer, scope) not in urls and scope not in (COMPLETE, AUTHORITIES):
                self._find_crl(crl, "it was signed, and no certificate in the ledger can name it")
            elif row is not None and row.number == number and digests[issuer, scope] != digest:
                self._find_crl(crl, "another CRL with this number was signed than the ledger has")
            elif row is None or number < row.number:
                self.result.older_crls += 1
            elif number > row.number:
                what = f"it was signed, and the ledger has an older one of its scope, {row.number}"
                self._find_crl(crl, what)
        known = {(crl.issuer_key_id, crl.scope, crl.number) for crl in self._signed.crls}
        for (issuer, scope), row in kept.items():
            if (issuer, scope, row.number) not in known:
                made = row.this_update * _SECOND
                name = _crl_name(SignedList(issuer, row.number, b"", scope))
                self._miss_what(name, Period(made, made + BACKDATED * _SECOND))

    def _find_crl(self, crl: SignedList, what: str) -> None:
        if crl in self._signed.accepted:
            self.result.lose(_crl_name(crl))
        else:
            self._verdict.find(_crl_name(crl), what)

    def compare_checkpoints(self) -> None:
        """Compare checkpoints with those that are kept, and else with the tree."""
        rows = self._connection.execute(select(checkpoints.c.note, checkpoints.c.made_at)).all()
        kept = {found: row.made_at for row in rows if (found := _checkpoint(row.note))}
        head = read_head(self._connection)
        for size, root in sorted(self._signed.checkpoints - kept.keys()):
            name = f"checkpoint of {size} leaves"
            try:
                if head is None or size > head.tree.size:
                    raise EvidenceError(_SMALLER)  # noqa: TRY301
                hashes = prove(consistency_proof, size, head.tree.size, self._connection) if size else []
                if hashes is None:
                    raise EvidenceError("nodes of the tree are missing")  # noqa: TRY301
                verify_consistency(size, root, head.tree.size, head.tree.root, hashes)
            except EvidenceError as error:
                if (size, root) in self._signed.accepted:
                    self.result.lose(name)
                else:
                    self._verdict.find(name, f"it was signed, and {error.message}")
        for (size, root), made_at in kept.items():
            if (size, root) not in self._signed.checkpoints:
                self._miss_what(f"checkpoint of {size} leaves", Period(made_at - _SECOND, made_at + 1))


class _Ahead:
    """Rows of intents, of which the next can be looked at; `found` if that one was signed."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self._rows = rows
        self._next = next(rows, None)
        self.found = False

    def peek(self) -> Any:
        """Return the next row; None after the last."""
        return self._next

    def take(self) -> Any:
        """Return the next row, or None if it was signed, and go on."""
        row = None if self.found else self._next
        self._next, self.found = next(self._rows, None), False
        return row


def _intents(connection: Connection) -> Iterator[Any]:
    last = b""
    while rows := connection.execute(_INTENTS, {"last": last}).all():
        yield from rows
        last = rows[-1].serial


def _crl_name(crl: SignedList) -> str:
    """Name a CRL; its scope is what somebody asked for, so it is escaped."""
    scope = json.dumps(crl.scope) if crl.scope else ""
    return f"CRL {crl.number} of {crl.issuer_key_id.hex()} {scope}".rstrip()


def _checkpoint(note: bytes) -> tuple[int, bytes] | None:
    try:
        checkpoint = Checkpoint.parse(parse_note(bytes(note)).text)
    except EvidenceError:
        return None  # `verify` names it
    return checkpoint.size, checkpoint.root


def _tbs_digest(der: bytes) -> bytes:
    try:
        tbs, *_ = children(der)
    except ValueError:
        return b""
    return sha256(tbs).digest()


_INTENTS: Final = (
    select(intents.c.serial, intents.c.tbs_sha256, intents.c.void_reason, certificates.c.recorded_at)
    .outerjoin(certificates, certificates.c.intent_id == intents.c.id)
    .where(intents.c.serial > bindparam("last"))
    .order_by(intents.c.serial)
    .limit(_CHUNK)
)
