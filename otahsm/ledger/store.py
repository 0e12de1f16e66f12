"""The ledger's writes: durable, in group commits, off the event loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection

from otahsm.access import Denied
from otahsm.errors import LedgerUnavailableError
from otahsm.ledger.acts import Acts
from otahsm.ledger.db.database import Database
from otahsm.ledger.merkle_log import MerkleLog
from otahsm.ledger.read.read_connection import ReadConnection
from otahsm.ledger.records import (
    Accepted,
    AuditEvent,
    Change,
    CrlNumber,
    EventFactory,
    Intent,
    JournalResult,
    QuotaLimits,
    QuotaReset,
    Renewal,
    StoredCrl,
    Vouched,
)
from otahsm.ledger.tree.pending import MacKeys
from otahsm.ledger.write import batches, denials, events, outcomes, quotas, revocation
from otahsm.ledger.write.journal import note_renewals, write_intents
from otahsm.ledger.write.writer import Writer
from otahsm.system.clock import Clock, microseconds, utc_now

_NO_LIMITS: Final[Mapping[int, QuotaLimits]] = {}


class Ledger:
    """The ledger as one daemon uses it.

    Args:
        database: the database.
        keys: of the MACs on pending leaves.
        issuer_key_ids: the key identifiers of the CAs whose certificates it may contain; the first names it.
        renewals: when a device's certificate may be superseded, by profile; None for never.
        clock: the time of writes.

    Attributes:
        tree: the log of what it contains.
        acts: what can't be undone.
    """

    def __init__(
        self,
        database: Database,
        keys: MacKeys,
        issuer_key_ids: Collection[bytes],
        renewals: Mapping[str, Renewal] | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._renewals = renewals or {}
        self._clock = clock
        self._writer = Writer(database, keys, issuer_key_ids, clock)
        self._reader = ReadConnection(database)
        self.tree = MerkleLog(self._writer, self._reader)
        self.acts = Acts(self._writer, clock)

    async def open(self, vouched: Vouched | None = None) -> int:
        """Lock the ledger, migrate its schema, and void the intents that a crash left open.

        Args:
            vouched: what an operator has accepted, though nothing shows that a daemon wrote it; None if
                nobody was asked.

        Returns:
            The number of voided intents: serials that may have been signed but were never released.

        Raises:
            ConfigError: it can't be used, another daemon holds the file, or it belongs to another CA.
            LedgerTamperedError: its tables are not those of our migrations (see `otahsm.ledger.shape`), or
                rows are of no kind.
            LedgerUnavailableError: the server can't be reached.
        """
        return await self._writer.open(vouched)

    async def journal(
        self, group: Sequence[Intent], now: int | None = None, limits: Mapping[int, QuotaLimits] = _NO_LIMITS
    ) -> list[JournalResult]:
        """Write intents durably (step 3); return a result for each, in order.

        Args:
            group: at least one intent.
            now: the time for renewal windows, in seconds since the Unix epoch; None for each intent's own.
            limits: the limits of each `quota_id` in the group.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        return await self._writer.transaction(
            lambda connection: self._write_intents(connection, group, now, limits)
        )

    async def record(self, issued: Mapping[int, bytes]) -> None:
        """Write certificates, DER by intent id, durably (step 5).

        Raises:
            LedgerUnavailableError: nothing was written; nothing may be released.
        """
        now = microseconds(self._clock())
        await self._writer.transaction(
            lambda connection: outcomes.write_certificates(connection, issued, self._writer.open_intents, now)
        )
        self._writer.recorded(issued.keys())

    async def void(self, intent_ids: Sequence[int], reason: str) -> None:
        """Void intents that failed, so that their devices can be requested again.

        If the ledger can't be written now, this is done before the next intents are written.
        """
        await self._writer.void(intent_ids, reason)

    async def write_events(self, written: Sequence[AuditEvent]) -> None:
        """Write events durably, except those that exist already. Raises LedgerUnavailableError."""
        await self._writer.transaction(
            lambda connection: events.write_new(connection, written), with_events=True
        )

    async def allow(self, subject: str, make_event: EventFactory[Denied]) -> Change[Denied | None]:
        """Allow a client again; the result is None if it was not denied. `make_event` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        return await self._writer.transaction(
            lambda connection: denials.allow(connection, subject, make_event), with_events=True
        )

    async def quota_ids(self, clients: Sequence[str]) -> list[int]:
        """Return the quota ids of the policy's clients, in order. Raises LedgerUnavailableError."""
        return await self._writer.transaction(lambda connection: quotas.ids_of(connection, clients))

    async def reset_quota(
        self, client: str, formerly: Collection[str], make_event: EventFactory[QuotaReset]
    ) -> list[Change[QuotaReset]]:
        """Reset a client's quotas per day and second: see `quotas.reset_uses`. `make_event` as for `reset`.

        Raises:
            LedgerUnavailableError: nothing was changed.
        """
        now = microseconds(self._clock())
        return await self._writer.transaction(
            lambda connection: quotas.reset_uses(connection, client, formerly, now, make_event)
        )

    async def note_crl_urls(self, issuer_key_id: bytes, urls: Sequence[str], *, complete: bool) -> None:
        """Record CRL URLs that certificates may contain: see `revocation.note_urls`.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        await self._writer.transaction(
            lambda connection: revocation.note_urls(connection, issuer_key_id, urls, complete=complete)
        )

    async def take_crl_number(
        self, issuer_key_id: bytes, *, above: int, earliest: int, now: int
    ) -> CrlNumber:
        """Take a CRL number: see `revocation.take_number`.

        Raises:
            LedgerUnavailableError: none was taken, or it is lost.
        """
        return await self._writer.transaction(
            lambda connection: revocation.take_number(connection, issuer_key_id, above, earliest, now)
        )

    async def write_crls(self, issuer_key_id: bytes, made: Sequence[StoredCrl]) -> None:
        """Write CRLs of a CA, each replacing an older one of its scope, but never a newer one.

        Raises:
            LedgerUnavailableError: nothing was written.
        """
        await self._writer.transaction(
            lambda connection: revocation.write_crls(connection, issuer_key_id, made)
        )

    @property
    def failure(self) -> LedgerUnavailableError | None:
        """Why the last write failed; None if it succeeded."""
        return self._writer.failure

    async def tend(self) -> int:
        """Void the open intents of dead replicas. If the last write failed, check whether writes work again.

        Returns:
            The number of voided intents.
        """
        return await self._writer.tend()

    async def close(self) -> None:
        """Close the ledger."""
        await self._reader.close()
        await self._writer.close()

    def _write_intents(
        self,
        connection: Connection,
        group: Sequence[Intent],
        now: int | None,
        limits: Mapping[int, QuotaLimits],
    ) -> list[JournalResult]:
        ids = self._database.take_ids(connection, len(group))
        answers = write_intents(connection, self._database.slot, ids, group, self._renewals, now)
        if limits:  # always before batches, to avoid deadlocks
            # By the intents' own time, so that counts can be compared with intents, whatever a clock does.
            intended_at = max(intent.intended_at for intent in group)
            answers = quotas.hold(connection, group, answers, limits, intended_at)
        if any(intent.batch_id is not None for intent in group):
            seconds = int(self._clock().timestamp()) if now is None else now
            granted = batches.reserve(connection, group, answers, seconds)
            quotas.give_back_denied(connection, group, answers, granted)
            answers = granted
        note_renewals(connection, group, answers)
        self._writer.wrote(
            {
                answer.intent_id: intent
                for intent, answer in zip(group, answers, strict=True)
                if isinstance(answer, Accepted)
            }
        )
        return answers
