"""Clients' quotas as the cycle uses them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from otahsm.access import Grant, Quotas
from otahsm.errors import QuotaError
from otahsm.ledger import Ledger, QuotaLimits

_NONE: Final = Quotas()
_SHORT: Final = 2.0  # seconds; only shorter waits are cached


class Counted(NamedTuple):
    """The quotas of the clients in a group: their ids by name, and the limits by id."""

    ids: Mapping[str, int]
    limits: Mapping[int, QuotaLimits]


class ClientQuotas:
    """Looks up the quotas of clients. Their usage is counted in the ledger, for all daemons.

    Args:
        ledger: counts the usage.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ids: dict[str, int] = {}
        self._over: dict[str, tuple[float, str]] = {}  # until when, on the monotonic clock, and why

    async def of(self, grants: Mapping[str, Grant]) -> Counted:
        """Return the quotas of the grants, by name, that have any. Raises LedgerUnavailableError."""
        limited = {
            name: QuotaLimits(grant.quotas, grant.formerly)
            for name, grant in grants.items()
            if grant.quotas != _NONE
        }
        if unknown := sorted(limited.keys() - self._ids.keys()):
            self._ids.update(zip(unknown, await self._ledger.quota_ids(unknown), strict=True))
        ids = {name: self._ids[name] for name in limited}
        return Counted(ids, {ids[name]: limits for name, limits in limited.items()})

    def note(self, grant: Grant, error: QuotaError) -> None:
        """Remember that a client is over its rate for a moment, so that `check` refuses it until then."""
        if error.retry_after is not None and error.retry_after < _SHORT:
            self._over[grant.name] = time.monotonic() + error.retry_after, error.message

    def check(self, grant: Grant) -> None:
        """Raise QuotaError for a client that is known to be over its rate, before its CSR is read."""
        if grant.name not in self._over:
            return
        until, message = self._over[grant.name]
        left = until - time.monotonic()
        if left > 0 and grant.quotas.per_second is not None:
            raise QuotaError(message, left)
        del self._over[grant.name]
