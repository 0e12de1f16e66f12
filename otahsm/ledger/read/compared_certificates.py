"""Compares all certificates in the ledger with their rows and their CAs.

The tree shows whether a row was changed after it became a leaf. This shows whether it was true in the first
place: whoever can write to the database can also write a row for a certificate of another key or CA.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Final

from sqlalchemy import Column, Connection, Label, func, select, type_coerce
from sqlalchemy.types import NullType

from otahsm.ledger.read.recorded_certificate import CertificateComparison, Compared, RecordedCertificate
from otahsm.ledger.schema import certificates, crl_urls, intents, revocations
from otahsm.ledger.tree.verdict import Verdict
from otahsm.pki.issuer import Issuer

_PAGE: Final = 1000  # rows
_FEW: Final = 20_000  # certificates, which take less time than starting processes
_MOST_PROCESSES: Final = 8  # more than one process reads rows for

_Page = list[RecordedCertificate]


@dataclass
class ComparedCertificates:
    """The result of comparing certificates.

    Attributes:
        certificates: how many were compared with their rows.
        signatures: how many signatures verified.
        unchecked: how many have a CA that is not configured, by its key identifier in hexadecimal.
    """

    certificates: int = 0
    signatures: int = 0
    unchecked: Counter[str] = field(default_factory=Counter)


def compare_certificates(
    connection: Connection,
    issuers: Sequence[Issuer],
    verdict: Verdict,
    now: datetime,
    progress: Callable[[int], None] = lambda _: None,
    processes: int | None = None,
) -> ComparedCertificates:
    """Compare all certificates in a ledger with their rows and their CAs.

    Args:
        connection: from `snapshot`.
        issuers: the CAs that are configured, retired ones included. If there are none, no signature is
            verified. If there are, a certificate of another CA is a finding, unless it has expired.
        verdict: takes the findings.
        now: the time, with a time zone.
        progress: called from time to time with the number of certificates done.
        processes: how many compare; if None, one for each processor, or none for a few certificates.
    """
    if processes is None:
        count = connection.execute(_COUNT).scalar_one()
        processes = 0 if count < _FEW else min(len(os.sched_getaffinity(0)), _MOST_PROCESSES)
    run = _Run(issuers, verdict, now)
    partitions = connection.execute(_ROWS.execution_options(yield_per=_PAGE)).partitions()
    pages = ([RecordedCertificate._make(row) for row in rows] for rows in partitions)
    compare = partial(_in_processes, processes=processes) if processes > 1 else _here
    for page, compared in compare(pages, issuers):
        for row, result in zip(page, compared, strict=True):
            run.take(row, result)
        progress(run.result.certificates)
    run.compare_urls(connection)
    return run.result


class _Run:
    """Collects the results."""

    def __init__(self, issuers: Sequence[Issuer], verdict: Verdict, now: datetime) -> None:
        self.result = ComparedCertificates()
        self._known = {issuer.key_identifier for issuer in issuers}
        self._verdict = verdict
        self._now = int(now.timestamp())
        self._urls: dict[tuple[Any, str], Any] = {}  # with the first intent that has each

    def take(self, row: RecordedCertificate, compared: Compared) -> None:
        """Note the result for one certificate."""
        problems = list(compared.problems)
        self.result.certificates += 1
        for url in () if problems else compared.urls:
            self._urls.setdefault((row.issuer_key_id, url), row.intent_id)
        self.result.signatures += compared.is_verified
        if row.issuer_key_id not in self._known:
            identifier = row.issuer_key_id.hex() if isinstance(row.issuer_key_id, bytes) else "unknown"
            self.result.unchecked[identifier] += 1
            has_expired = isinstance(row.not_after, int) and row.not_after < self._now
            if self._known and not has_expired:
                problems.append(f"no CA with its key identifier {identifier} is configured")
        if problems:
            self._verdict.find(f"certificate {row.intent_id}", f"{row.name}: {'; '.join(problems)}")

    def compare_urls(self, connection: Connection) -> None:
        """Check that the ledger knows each URL that certificates state: for others, no CRL is made."""
        known = {tuple(row) for row in connection.execute(_URLS)}
        for (issuer_key_id, url), intent_id in self._urls.items():
            if (issuer_key_id, url) not in known:
                what = f"it states the CRL {url!a:.300}, which is not among those of its CA: none is made"
                self._verdict.find(f"certificate {intent_id}", what)


def _here(pages: Iterable[_Page], issuers: Sequence[Issuer]) -> Iterator[tuple[_Page, list[Compared]]]:
    comparison = CertificateComparison(issuers)
    for page in pages:
        yield page, [comparison.compare(row) for row in page]


def _in_processes(
    pages: Iterator[_Page], issuers: Sequence[Issuer], processes: int
) -> Iterator[tuple[_Page, list[Compared]]]:
    """Verifying signatures takes most of the time, and holds the interpreter's lock."""
    context = multiprocessing.get_context("spawn")  # threads and a database's connection are not forked
    encoded = [issuer.encode() for issuer in issuers]
    with ProcessPoolExecutor(processes, context, _begin, (encoded,)) as pool:
        waiting = deque((page, pool.submit(_compare, page)) for page in islice(pages, 2 * processes))
        while waiting:
            page, future = waiting.popleft()
            yield page, future.result()
            waiting.extend((page, pool.submit(_compare, page)) for page in islice(pages, 1))


_comparison: CertificateComparison  # of a process of the pool


def _begin(encoded: Sequence[tuple[bytes, bytes, bytes]]) -> None:
    global _comparison  # noqa: PLW0603 - what a pool's initializer is for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it ends it
    _comparison = CertificateComparison(Issuer.decode(*issuer) for issuer in encoded)


def _compare(page: _Page) -> list[Compared]:
    return [_comparison.compare(row) for row in page]


def _as_it_is(column: Column[Any]) -> Label[Any]:
    return type_coerce(column, NullType()).label(column.name)


_ROWS: Final = (
    select(
        certificates.c.intent_id,
        *map(
            _as_it_is,
            (
                certificates.c.der,
                intents.c.serial,
                intents.c.device_id,
                intents.c.spki_sha256,
                intents.c.tbs_sha256,
                intents.c.issuer_key_id,
                intents.c.not_before,
                intents.c.not_after,
                intents.c.void_reason,
            ),
        ),
        revocations.c.intent_id.is_not(None),
        _as_it_is(revocations.c.crl_url),
    )
    .select_from(
        certificates.outerjoin(intents, intents.c.id == certificates.c.intent_id).outerjoin(
            revocations, revocations.c.intent_id == certificates.c.intent_id
        )
    )
    .order_by(certificates.c.intent_id)
)
_COUNT: Final = select(func.count()).select_from(certificates)
_URLS: Final = select(_as_it_is(crl_urls.c.issuer_key_id), _as_it_is(crl_urls.c.url))
