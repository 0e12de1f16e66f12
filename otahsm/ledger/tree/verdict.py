"""What a verification of the ledger finds, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

MAX_FINDINGS: Final = 100


class Finding(NamedTuple):
    """Something that does not fit.

    Attributes:
        where: the table, and the row in it.
        what: is wrong with it.
    """

    where: str
    what: str


@dataclass
class Verdict:
    """What a verification found.

    Attributes:
        leaves: how many there are.
        root: of the tree that they make, 32 octets; None if one is missing, so that they make none.
        waiting: entries that will become leaves; nothing vouches for those yet.
        checkpoints: how many there are.
        signed_size: the number of leaves that the largest good checkpoint covers; None if there is none.
        findings: what does not fit, at most MAX_FINDINGS.
        count: how many findings there were in all.
    """

    leaves: int = 0
    root: bytes | None = None
    waiting: int = 0
    checkpoints: int = 0
    signed_size: int | None = None
    findings: list[Finding] = field(default_factory=list)
    count: int = 0

    @property
    def good(self) -> bool:
        """Whether everything fits."""
        return self.count == 0

    def find(self, where: str, what: str) -> None:
        """Note something that does not fit."""
        self.count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(where, what))
