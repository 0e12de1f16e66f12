"""Shows what clients have used of their quotas, and resets it."""

from __future__ import annotations

from typing import Final, NamedTuple

from otahsm.access import AccessControl, Caller, Grant, Quotas, Use, at_once, corrected, sum_of, today
from otahsm.errors import NotAllowedError, NotFoundError
from otahsm.ledger import AuditEvent, Ledger, LedgerReader, QuotaReset
from otahsm.ledger.read.queries import LedgerQueries
from otahsm.system.clock import Clock, microseconds
from otahsm.transparency.audit import AuditLog, EventName

_NOTHING: Final = Use()


class QuotaUse(NamedTuple):
    """What a client of the policy has used of its quotas.

    Attributes:
        client: its name in the policy.
        quotas: its limits.
        taken: how many certificates it has had in total, since it has quotas.
        today: on this day, UTC.
        at_once: how many the quota per second allows now; None without one.
    """

    client: str
    quotas: Quotas
    taken: int
    today: int
    at_once: int | None


class ClientQuotaUses:
    """Shows and resets quotas.

    Args:
        ledger: where they are counted.
        queries: where counts are read.
        access: has the policy.
        audit: records each reset.
        clock: the time of day.
    """

    def __init__(
        self, ledger: Ledger, queries: LedgerQueries, access: AccessControl, audit: AuditLog, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._access = access
        self._audit = audit
        self._clock = clock

    async def listed(self, client: str = "") -> list[QuotaUse]:
        """Return the use of a client of the policy, by its name; "" for all.

        Raises:
            NotFoundError: the policy has no such client.
            LedgerUnavailableError: the ledger can't be read.
        """
        grants = [self._grant(client)] if client else list(self._access.policy)
        uses = await self._queries.ask(LedgerReader.quota_uses)
        now = microseconds(self._clock())

        def use_of(grant: Grant) -> QuotaUse:
            rows = [corrected(uses[name], now) for name in sorted(grant.names) if name in uses]
            use = sum_of(rows) if rows else _NOTHING
            free = at_once(grant.quotas, use, now)
            return QuotaUse(grant.name, grant.quotas, use.taken, today(use, now), free)

        return [use_of(grant) for grant in grants]

    async def reset(self, client: str, caller: Caller) -> QuotaUse:
        """Reset the day's count and the rate of a client of the policy, and never its total; return its use.

        Raises:
            NotFoundError: the policy has no such client.
            NotAllowedError: it is the caller itself.
            LedgerUnavailableError: nothing was changed.
        """
        grant = self._grant(client)
        if self._access.policy.of(caller) is grant:  # it would have no quota at all
            raise NotAllowedError(
                f"{grant.name} can't reset its own quota",
                hint="Let another admin do it, or raise the quota in policy.toml.",
            )
        by = self._access.principal_of(caller)

        def event(before: QuotaReset) -> AuditEvent:
            # Everything before, so that anybody can see what was given.
            details = {
                "after": before.newest,
                "quota": before.quota_id,
                "quota_of": before.client,
                **{f"before_{name}": value for name, value in before.use._asdict().items()},
            }
            return self._audit.event(EventName.QUOTA_RESET, by.identity, by.details(details))

        for change in await self._ledger.reset_quota(grant.name, grant.formerly, event):
            self._audit.done(change.event)
        return (await self.listed(client))[0]

    def _grant(self, client: str) -> Grant:
        grant = self._access.policy.grants.get(client)
        if grant is None:
            raise NotFoundError(
                f"the policy has no client {client[:64]!a}",
                hint="Give its name in the policy; `otahsm client quota` lists all.",
            )
        return grant
