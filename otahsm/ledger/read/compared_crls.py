"""Compares the CRLs in the ledger with their rows, their CAs, and the revocations in the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, select, type_coerce
from sqlalchemy.types import NullType

from otahsm.ledger.schema import crl_numbers, crl_urls, crls, intents, revocations
from otahsm.ledger.tree.verdict import Verdict
from otahsm.pki.crls.building import Reason, RevokedCertificate, encode_entry
from otahsm.pki.crls.distribution import AUTHORITIES, COMPLETE, MOST_SKIPPED
from otahsm.pki.crls.recorded import RecordedCrl, differences, entries_of
from otahsm.pki.der import children, contents
from otahsm.pki.issuer import Issuer
from otahsm.pki.serial import SERIAL_BYTES, SerialNumber

_PAGE: Final = 2000  # revocations
_SECOND: Final = 1_000_000
_MALFORMED: Final = (TypeError, ValueError, OverflowError, OSError)


@dataclass
class ComparedCrls:
    """The result of comparing CRLs.

    Attributes:
        crls: how many were compared with their rows and revocations.
        signatures: how many signatures verified.
        unchecked: how many CRLs have a CA that is not configured, by its key identifier in hexadecimal.
        entries: how many entries were found among the revocations.
        later: how many revocations are not on a CRL that should list them, as it is older than they are.
    """

    crls: int = 0
    signatures: int = 0
    unchecked: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    later: int = 0


class _Crl(NamedTuple):
    issuer_key_id: Any
    url: Any
    number: Any
    this_update: Any
    next_update: Any
    revoked: Any
    der: Any

    @property
    def name(self) -> str:
        scope = "the complete CRL" if self.url == COMPLETE else f"the CRL {self.url!a:.300}"
        return f"{scope} of {_hex(self.issuer_key_id)}"


def compare_crls(
    connection: Connection, issuers: Sequence[Issuer], verdict: Verdict, now: datetime
) -> ComparedCrls:
    """Compare all CRLs in a ledger with what else is in it.

    A revocation must be on each CRL that was made after it was recorded. A CRL does not say when it was made,
    but it is not before thisUpdate. So revocations of the ten minutes from then on may be missing without a
    finding, and those that a clock recorded which was ahead: `later` counts them.

    Args:
        connection: from `snapshot`.
        issuers: the CAs that are configured, retired ones included. If there are none, no signature is
            verified. If there are, a CRL of another CA is a finding, unless it has expired.
        verdict: takes the findings.
        now: the time, with a time zone.
    """
    run = _Run(connection, issuers, verdict, now)
    for row in connection.execute(_CRLS.execution_options(yield_per=1)):
        run.check(_Crl(*row))
    run.check_numbers()
    return run.result


class _Run:
    """Checks one CRL after the other."""

    def __init__(
        self, connection: Connection, issuers: Sequence[Issuer], verdict: Verdict, now: datetime
    ) -> None:
        self.result = ComparedCrls()
        self._connection = connection
        self._issuers = {issuer.key_identifier: issuer for issuer in issuers}
        self._verdict = verdict
        self._now = int(now.timestamp())
        self._numbers: dict[Any, Any] = dict(tuple(row) for row in connection.execute(_NUMBERS))
        self._highest: dict[Any, int] = {}  # of its CRLs, by CA
        self._shards = {(row.issuer_key_id, row.url) for row in connection.execute(_URLS) if not row.complete}

    def check(self, crl: _Crl) -> None:
        """Check a CRL, and add what is wrong to the verdict."""
        self.result.crls += 1
        issuer = self._issuers.get(crl.issuer_key_id)
        recorded = RecordedCrl(_hex(crl.issuer_key_id), *crl[1:-1])
        problems = differences(crl.der, recorded, issuer)
        self.result.signatures += issuer is not None and not problems
        if issuer is None:
            problems += self._of_a_stranger(crl)
        if crl.url not in (COMPLETE, AUTHORITIES) and (crl.issuer_key_id, crl.url) not in self._shards:
            problems.append("no certificate can name it")
        taken = self._numbers.get(crl.issuer_key_id)
        if not (isinstance(taken, int) and isinstance(crl.number, int) and crl.number <= taken):
            problems.append(f"its number {crl.number!a:.30} was never taken")
        if not problems:
            self._highest[crl.issuer_key_id] = max(crl.number, self._highest.get(crl.issuer_key_id, 0))
            problems += self._compare_entries(crl)
        for problem in problems:
            self._verdict.find(crl.name, problem)

    def check_numbers(self) -> None:
        """Check that no CA has taken numbers without end: signers would refuse the next CRL."""
        for issuer_key_id, taken in self._numbers.items():
            highest = self._highest.get(issuer_key_id, 0)
            if issuer_key_id in self._issuers and isinstance(taken, int) and taken > highest + MOST_SKIPPED:
                what = f"is {taken}, and its last CRL has {highest}: it was raised"
                self._verdict.find(f"the CRL number of {_hex(issuer_key_id)}", what)

    def _of_a_stranger(self, crl: _Crl) -> Iterator[str]:
        self.result.unchecked[_hex(crl.issuer_key_id)] += 1
        has_expired = isinstance(crl.next_update, int) and crl.next_update < self._now
        if self._issuers and not has_expired:
            yield "no CA with its key identifier is configured"

    def _compare_entries(self, crl: _Crl) -> Iterator[str]:
        """Compare a CRL that is what its row says with the revocations of its scope."""
        listed = set(entries_of(crl.der))
        for row in self._revocations(crl) if crl.url != AUTHORITIES else ():
            try:
                entry = _entry(row)
                is_due = row.recorded_at < crl.this_update * _SECOND
                is_ours = row.issuer_key_id == crl.issuer_key_id
            except _MALFORMED:
                yield f"the revocation of intent {row.intent_id} can't be read"
                continue
            if entry in listed:
                listed.remove(entry)
                self.result.entries += 1
            elif not is_ours:
                continue
            elif is_due:
                yield f"it lacks the revocation of the serial number {_serial(row).hex()}"
            else:
                self.result.later += 1
        for entry in sorted(listed):
            serial = contents(next(children(entry))).hex()
            yield f"it has the serial number {serial}, and the ledger has no such revocation"

    def _revocations(self, crl: _Crl) -> Iterator[Row[Any]]:
        query = _REVOCATIONS
        if crl.url != COMPLETE:
            query = query.where(revocations.c.crl_url == crl.url)
        yield from self._connection.execute(query.execution_options(yield_per=_PAGE))


def _entry(row: Row[Any]) -> bytes:
    revoked_at = datetime.fromtimestamp(row.revoked_at, UTC)
    return encode_entry(RevokedCertificate(_serial(row), revoked_at, Reason(row.reason)))


def _serial(row: Row[Any]) -> SerialNumber:
    if not isinstance(row.serial, bytes) or len(row.serial) != SERIAL_BYTES:
        raise TypeError("a serial number that is not 20 octets")
    return SerialNumber.from_key(row.serial)


def _hex(key_identifier: object) -> str:
    return key_identifier.hex() if isinstance(key_identifier, bytes) else "unknown"


def _as_they_are(*columns: Any) -> Any:
    """Select columns without what SQLAlchemy converts: SQLite stores values of any type."""
    return select(*(type_coerce(column, NullType()).label(column.name) for column in columns))


_CRLS: Final = _as_they_are(*(crls.c[name] for name in _Crl._fields))
_NUMBERS: Final = _as_they_are(crl_numbers.c.issuer_key_id, crl_numbers.c.number)
_URLS: Final = _as_they_are(*crl_urls.c)
_REVOCATIONS: Final = _as_they_are(
    revocations.c.intent_id, intents.c.serial, revocations.c.revoked_at, revocations.c.reason,
    revocations.c.recorded_at, intents.c.issuer_key_id,
).select_from(revocations.join(intents, intents.c.id == revocations.c.intent_id))  # fmt: skip
