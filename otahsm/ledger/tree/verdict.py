"""The result of a verification of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MAX_FINDINGS: Final = 100


class Finding(NamedTuple):
    """An inconsistency.

    Attributes:
        where: the table and the row.
        what: what is wrong.
    """

    where: str
    what: str


@dataclass
class Verdict:
    """The result of a verification.

    Attributes:
        leaves: the number of leaves.
        root: the root hash of their tree, 32 octets; None if a leaf is missing.
        waiting: the number of pending entries.
        unverified_waiting: the number of those whose MAC was not verified, for lack of the key.
        checkpoints: the number of checkpoints.
        signed_size: the number of leaves that the largest valid checkpoint covers; None if there is none.
        findings: the inconsistencies, at most MAX_FINDINGS.
        count: the total number of inconsistencies.
        warnings: what is in the database beside the ledger, and can't change it.
        readable: whether the content could be verified; False if tables or columns are missing.
    """

    leaves: int = 0
    root: bytes | None = None
    waiting: int = 0
    unverified_waiting: int = 0
    checkpoints: int = 0
    signed_size: int | None = None
    findings: list[Finding] = field(default_factory=list)
    count: int = 0
    warnings: list[Finding] = field(default_factory=list)
    readable: bool = True

    @property
    def good(self) -> bool:
        """Whether no inconsistency was found."""
        return self.count == 0

    def find(self, where: str, what: str) -> None:
        """Record an inconsistency."""
        self.count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(where, what))

    def begin_with(self, findings: Sequence[Finding]) -> None:
        """Record inconsistencies that are named before all others, as these may follow from them."""
        self.count += len(findings)
        self.findings = [*findings, *self.findings][:MAX_FINDINGS]

    def add(self, findings: Iterable[tuple[str, str]], count: int) -> None:
        """Record the inconsistencies that another check found: what it named of them, and how many."""
        total = self.count + count
        for where, what in findings:
            self.find(where, what)
        self.count = total
