"""Compares the ledger with what signers say that they signed, both ways.

What was signed must be in the ledger: a certificate as an intent, void or not. What the ledger holds must
have been signed, if it is of a time that the signers' journals cover.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import Connection, bindparam, select

from otahsm.errors import EvidenceError
from otahsm.ledger.schema import certificates, checkpoints, crl_numbers, crls, intents
from otahsm.ledger.tree.proofs import prove, read_head
from otahsm.ledger.tree.verdict import Verdict
from otahsm.pki.der import children
from otahsm.pki.serial import SerialNumber
from otahsm.tlog import Checkpoint, consistency_proof, parse_note, verify_consistency

_CHUNK: Final = 1000


class Period(NamedTuple):
    """A time, in microseconds since the Unix epoch: from `begin` on, before `end`."""

    begin: int
    end: int

    def has(self, moment: int) -> bool:
        """Return whether a moment is in it."""
        return self.begin <= moment < self.end


class Signatures:
    """What signers say that they signed. Certificates are kept in a temporary file.

    Attributes:
        certificates: how many there are.
        crls: each with the key identifier of its CA, its number, the digest of its TBS, and its scope.
        checkpoints: each with the number of leaves, and the root.
    """

    def __init__(self) -> None:
        self.certificates = 0
        self.crls: list[tuple[bytes, int, bytes, str]] = []
        self.checkpoints: set[tuple[int, bytes]] = set()
        self._database = sqlite3.connect("")  # a file without a name, which is gone when it is closed
        self._database.execute(
            "CREATE TABLE signed (serial BLOB, digest BLOB, PRIMARY KEY (serial, digest)) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget everything."""
        self._database.close()

    def add_certificate(self, serial: bytes, tbs_sha256: bytes) -> None:
        """Add a certificate: its serial number (20 octets), and the digest of its TBS (32 octets)."""
        cursor = self._database.execute("INSERT OR IGNORE INTO signed VALUES (?, ?)", (serial, tbs_sha256))
        self.certificates += cursor.rowcount

    def in_order(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the certificates, by serial number."""
        yield from self._database.execute("SELECT serial, digest FROM signed ORDER BY serial, digest")


class Comparison(NamedTuple):
    """The result of a comparison.

    Attributes:
        in_gaps: certificates that no journal has, of a time of which entries may be missing.
        older_crls: CRLs that were signed, and which the ledger has replaced by newer ones since.
    """

    in_gaps: int
    older_crls: int


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
    in_gaps = _compare_certificates(connection, signed, covered, gaps, verdict)
    older = _compare_crls(connection, signed, covered, verdict)
    _compare_checkpoints(connection, signed, verdict)
    return Comparison(in_gaps, older)


def _compare_certificates(
    connection: Connection, signed: Signatures, covered: Period, gaps: Sequence[Period], verdict: Verdict
) -> int:
    in_gaps = 0
    rows = _Ahead(_intents(connection))
    for serial, digest in chain(signed.in_order(), [(b"\xff" * 21, b"")]):
        while (row := rows.peek()) is not None and bytes(row.serial) < serial:
            in_gaps += _missing(rows.take(), covered, gaps, verdict)
        if len(serial) > 20:  # noqa: PLR2004 - the end
            break
        name = f"certificate {serial.hex()}"
        if row is None or bytes(row.serial) != serial:
            verdict.find(name, "it was signed, and the ledger has no intent for it")
        elif row.tbs_sha256 != digest:
            verdict.find(name, "another certificate with this serial number was signed than was journalled")
        else:
            rows.found = True
    return in_gaps


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


def _missing(row: Any, covered: Period, gaps: Sequence[Period], verdict: Verdict) -> int:
    """Look at an intent that no journal has; return 1 if that may be, of the time that it is of."""
    if row is None or row.recorded_at is None:
        return 0  # signed, or never released
    intended_at = 1000 * SerialNumber.from_key(bytes(row.serial)).milliseconds
    if not covered.has(intended_at) or row.recorded_at >= covered.end:
        return 0
    if any(gap.has(intended_at) for gap in gaps):
        return 1
    name = f"certificate {bytes(row.serial).hex()}"
    verdict.find(name, "the ledger has it, and no journal says that it was signed")
    return 0


def _intents(connection: Connection) -> Iterator[Any]:
    last = b""
    while rows := connection.execute(_INTENTS, {"last": last}).all():
        yield from rows
        last = rows[-1].serial


def _compare_crls(connection: Connection, signed: Signatures, covered: Period, verdict: Verdict) -> int:
    taken = {bytes(row.issuer_key_id): row.number for row in connection.execute(select(crl_numbers))}
    kept = {(bytes(row.issuer_key_id), row.url): row for row in connection.execute(select(crls))}
    digests = {key: _tbs_digest(bytes(row.der)) for key, row in kept.items()}
    older = 0
    for issuer, number, digest, scope in signed.crls:
        name = f"CRL {number} of {issuer.hex()} {scope}".rstrip()
        row = kept.get((issuer, scope))
        if number > taken.get(issuer, 0):
            verdict.find(name, "it was signed, and the ledger has not taken that number")
        elif row is not None and row.number == number and digests[issuer, scope] != digest:
            verdict.find(name, "another CRL with this number was signed than the ledger has")
        elif row is None or number < row.number:
            older += 1
    known = {(issuer, scope, number) for issuer, number, _, scope in signed.crls}
    for (issuer, scope), row in kept.items():
        is_covered = covered.has(row.this_update * 1_000_000)
        if is_covered and (issuer, scope, row.number) not in known:
            name = f"CRL {row.number} of {issuer.hex()} {scope}".rstrip()
            verdict.find(name, "the ledger has it, and no journal says that it was signed")
    return older


def _compare_checkpoints(connection: Connection, signed: Signatures, verdict: Verdict) -> None:
    kept = set(filter(None, map(_checkpoint, connection.execute(select(checkpoints.c.note)).scalars())))
    head = read_head(connection)
    for size, root in sorted(signed.checkpoints - kept):
        try:
            if head is None or size > head.tree.size:
                raise EvidenceError("the ledger's tree is smaller")  # noqa: TRY301
            hashes = prove(consistency_proof, size, head.tree.size, connection) if size else []
            if hashes is None:
                raise EvidenceError("nodes of the tree are missing")  # noqa: TRY301
            verify_consistency(size, root, head.tree.size, head.tree.root, hashes)
        except EvidenceError as error:
            verdict.find(f"checkpoint of {size} leaves", f"it was signed, and {error.message}")


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
    select(intents.c.serial, intents.c.tbs_sha256, certificates.c.recorded_at)
    .outerjoin(certificates, certificates.c.intent_id == intents.c.id)
    .where(intents.c.serial > bindparam("last"))
    .order_by(intents.c.serial)
    .limit(_CHUNK)
)
