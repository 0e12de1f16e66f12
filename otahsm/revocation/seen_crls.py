"""What a daemon knows of its CRLs besides the ledger, so that it never publishes a forged or an older one.

Whoever can write to the ledger can put an old CRL back: its signature is good, and it lacks revocations. So
the CRL of a scope never has a lower number than one that was published: by this process, or in a file. If
signers signed a later one, it may have been lost on the way to the ledger; then another is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from otahsm.errors import LedgerTamperedError
from otahsm.ledger import CrlRow, CrlState, StoredCrl
from otahsm.pki.crls.recorded import RecordedCrl, differences
from otahsm.pki.issuer import Issuer
from otahsm.token.desk.codec import LastCrl

_HINT: Final = (
    "Copy the ledger first: it is evidence. Then run `otahsm ledger verify`. If you restored an older copy,"
    " run `otahsm ledger accept` and restart the daemon. If not, somebody changed the ledger: when you know"
    " who, delete that row of the table crls, and the daemon makes the CRL anew."
)
_NONE: Final = LastCrl(0)


class SeenCrls:
    """The numbers of one CA's CRLs that are known, by scope, and which CRLs of the ledger were checked.

    Args:
        issuer: the CA certificate.
    """

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._published: dict[str, int] = {}
        self._signed: dict[str, LastCrl] = {}
        self._checked: dict[str, bytes] = {}  # the digests of what was checked last
        self.has_asked = False  # whether the signers have said what they signed

    @property
    def highest(self) -> int:
        """The highest number that is known; 0 for none."""
        return max([*self._published.values(), *(last.number for last in self._signed.values())], default=0)

    def note_published(self, numbers: Mapping[str, int]) -> None:
        """Note CRLs that were published."""
        for scope, number in numbers.items():
            self._published[scope] = max(number, self._published.get(scope, 0))

    def note_signed(self, last: Mapping[str, LastCrl]) -> None:
        """Note what signers signed last; if an operator had them forget it, what was published is, too."""
        self._signed.update(last)
        for scope, (number, is_forgotten) in last.items():
            if is_forgotten and number >= self._published.get(scope, 0):
                self._published.pop(scope, None)

    def is_behind(self, scope: str, row: CrlRow | None) -> bool:
        """Return whether signers signed a later CRL than the ledger has, so that one must be made anew."""
        return row is not None and row.number < self._signed.get(scope, _NONE).number

    def check_numbers(self, state: CrlState) -> None:
        """Check that no CRL is older than what was published. Raises LedgerTamperedError: one is."""
        for scope, row in state.crls.items():
            if any(type(value) is not int for value in row):  # SQLite stores what it is given
                raise LedgerTamperedError(f"{_name(scope)} in the ledger has no valid number", hint=_HINT)
            self._check_number(scope, row.number)

    def check(self, crl: StoredCrl) -> None:
        """Check a CRL of the ledger, thoroughly if it is not the one that was checked last.

        Raises:
            LedgerTamperedError: it is older than what was published, its CA has not signed it, or it is not
                what the ledger says of it.
        """
        self._check_number(crl.url, crl.row.number)
        digest = sha256(repr(crl.row).encode() + crl.der).digest()
        if self._checked.get(crl.url) == digest:
            return
        recorded = RecordedCrl(self._issuer.key_identifier.hex(), crl.url, *crl.row)
        if found := differences(crl.der, recorded, self._issuer):
            raise LedgerTamperedError(
                f"{_name(crl.url)} in the ledger was changed: {'; '.join(found)}", hint=_HINT
            )
        self._checked[crl.url] = digest
        self.note_published({crl.url: crl.row.number})

    def _check_number(self, scope: str, number: int) -> None:
        published = self._published.get(scope, 0)
        if number < published and self.has_asked:  # the signers know whether that was accepted
            raise LedgerTamperedError(
                f"{_name(scope)} in the ledger has the number {number}, but {published} was published: an"
                " older one was put back",
                hint=_HINT,
            )


def _name(scope: str) -> str:
    return f"the CRL {scope[:255]!a}" if scope else "the complete CRL"
