"""Quotas as the cycle uses them: which clients have some, and who need not be asked for now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from otahsm.access import Grant, Quotas
from otahsm.errors import QuotaError
from otahsm.ledger import Ledger

_NONE: Final = Quotas()
_SHORT: Final = 2.0  # seconds


class Counted(NamedTuple):
    """The quotas of the clients of a batch: their ids by name, and what is allowed by id."""

    ids: Mapping[str, int]
    limits: Mapping[int, Quotas]


class ClientQuotas:
    """Knows the quotas of clients. What clients have had is in the ledger, for all daemons.

    Args:
        ledger: counts.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ids: dict[str, int] = {}
        self._over: dict[str, tuple[float, str]] = {}  # until when, on the monotonic clock, and why

    async def of(self, grants: Mapping[str, Grant]) -> Counted:
        """Return the quotas of those grants, by name, that have some. Raises LedgerUnavailableError."""
        limited = {name: grant.quotas for name, grant in grants.items() if grant.quotas != _NONE}
        if unknown := sorted(limited.keys() - self._ids.keys()):
            self._ids.update(zip(unknown, await self._ledger.quota_ids(unknown), strict=True))
        ids = {name: self._ids[name] for name in limited}
        return Counted(ids, {ids[name]: quotas for name, quotas in limited.items()})

    def note(self, grant: Grant, error: QuotaError) -> None:
        """Remember that a client has had its share for a moment: nothing of its is read till then."""
        if error.retry_after is not None and error.retry_after < _SHORT:
            self._over[grant.name] = time.monotonic() + error.retry_after, error.message

    def check(self, grant: Grant) -> None:
        """Raise QuotaError for a client that has had its share just now: its CSRs are not even read."""
        if grant.name not in self._over:
            return
        until, message = self._over[grant.name]
        left = until - time.monotonic()
        if left > 0 and grant.quotas.per_second is not None:
            raise QuotaError(message, left)
        del self._over[grant.name]
